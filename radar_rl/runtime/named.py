"""Policies by name, as the command line gives them."""

from pathlib import Path

from radar_rl.errors import ConfigError
from radar_rl.policies import Policy, RadarPolicy, SampledRadar
from radar_rl.runtime.artifact import load_policy
from radar_rl.runtime.kinds import KINDS, forms, rule_from_string

SAMPLED = "sampled"


def policy_from_string(text: str, seed: int = 0) -> Policy:
    """A rule by its name, an artifact's folder, or a file of RADAR's published weights.

    Rules are ``KIND:VALUE[,KEY=VALUE…]`` (``radar_rl.runtime.kinds``), and ``sampled:PATH``: a policy of RADAR's at
    PATH that stops with its stop probability, as published.

    Args:
        text: the name, folder or file.
        seed: of what draws at random.

    Raises:
        ConfigError: neither a known rule nor a folder or file.
        ArtifactError: the folder or file holds no sound policy.
    """
    if text.partition(":")[0] in KINDS and not Path(text).is_dir():
        return rule_from_string(text, seed)
    kind, _, value = text.partition(":")
    if kind == SAMPLED:
        return _sampled(value, seed)
    if not Path(text).exists():
        raise ConfigError(
            f"policy {text!r}: expected {', '.join(forms())} (,KEY=VALUE… may follow), sampled:PATH, the folder of an "
            "exported policy or a run, or a file of RADAR's weights"
        )
    return load_policy(text)


def _sampled(path: str, seed: int) -> Policy:
    policy = load_policy(path)
    if not isinstance(policy, RadarPolicy):
        raise ConfigError(
            f"policy sampled:{path}: only a policy of RADAR's has a stop probability to draw by; {policy.name} decides "
            f"without: policy={path}"
        )
    return SampledRadar(policy, seed)


def place_of(text: str) -> Path:
    """Where the weights of a policy given by name lie, if it has any."""
    return Path(text.removeprefix(f"{SAMPLED}:"))
