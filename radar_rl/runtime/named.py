"""Policies by name, as the command line gives them."""

from pathlib import Path

from radar_rl.errors import ConfigError
from radar_rl.policies import Policy
from radar_rl.runtime.artifact import load_policy
from radar_rl.runtime.kinds import KINDS, NAMED, rule_from_string


def policy_from_string(text: str, seed: int = 0) -> Policy:
    """A rule by its name (``KIND:VALUE[,KEY=VALUE…]``, see ``radar_rl.runtime.kinds``), or an artifact's folder.

    Args:
        text: the name or folder.
        seed: of rules that draw at random.

    Raises:
        ConfigError: neither a known rule nor a folder.
        ArtifactError: the folder holds no sound policy.
    """
    if text.partition(":")[0] in KINDS and not Path(text).is_dir():
        return rule_from_string(text, seed)
    if not Path(text).is_dir():
        raise ConfigError(
            f"policy {text!r}: expected {', '.join(NAMED)} (,KEY=VALUE… may follow), or the folder of an exported "
            "policy or a run"
        )
    return load_policy(text)
