"""Policies by name, as the command line gives them."""

from pathlib import Path

from radar_rl.errors import ConfigError
from radar_rl.policies import ConfidenceThreshold, Policy, RadarPolicy, RandomStop, SampledRadar, StaticDepth
from radar_rl.runtime.artifact import load_policy

SAMPLED = "sampled"


def policy_from_string(text: str, seed: int = 0) -> Policy:
    """A rule, an artifact's folder, or a file of RADAR's published weights.

    Rules are ``static:DEPTH``, ``threshold:PROBABILITY``, ``random:PROBABILITY`` (of continuing), and ``sampled:PATH``:
    a policy of RADAR's at PATH that stops with its stop probability, as published, drawn by ``seed``.

    Raises:
        ConfigError: neither a known rule nor a folder or file.
        ArtifactError: the folder or file holds no sound policy.
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "static":
            return StaticDepth(int(value))
        if kind == "threshold":
            return ConfidenceThreshold(float(value))
        if kind == "random":
            return RandomStop(float(value), seed)
    except ValueError as error:
        raise ConfigError(f"policy {text!r}: {error}") from error
    if kind == SAMPLED:
        return _sampled(value, seed)
    if not Path(text).exists():
        raise ConfigError(
            f"policy {text!r}: expected static:DEPTH, threshold:PROBABILITY, random:PROBABILITY, sampled:PATH, the "
            "folder of an exported policy or a run, or a file of RADAR's weights"
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
