"""Policies by name, as the command line gives them."""

from pathlib import Path

from radar_rl.errors import ConfigError
from radar_rl.policies import ConfidenceThreshold, Policy, RandomStop, StaticDepth
from radar_rl.runtime.artifact import load_policy


def policy_from_string(text: str, seed: int = 0) -> Policy:
    """``static:DEPTH``, ``threshold:PROBABILITY``, ``random:PROBABILITY`` (of continuing), or an artifact's folder.

    Raises:
        ConfigError: neither a known rule nor a folder.
        ArtifactError: the folder holds no sound policy.
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
    if not Path(text).is_dir():
        raise ConfigError(
            f"policy {text!r}: expected static:DEPTH, threshold:PROBABILITY, random:PROBABILITY, or the folder of an "
            "exported policy or a run"
        )
    return load_policy(text)
