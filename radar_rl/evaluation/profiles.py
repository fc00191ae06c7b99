"""The machines that a comparison is made for: one profile, this machine's, or several over the same texts."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radar_rl.errors import ConfigError
from radar_rl.rollouts.pricing import profile_for
from radar_rl.rollouts.trace import TraceSettings
from radar_rl.speculative.hardware import HardwareProfile

# What ``hardware=`` may be: a file or a name, None for this machine, or several of them.
Hardware = str | None | Sequence[str | None]


def profiles(
    hardware: Hardware,
    measured: Path,
    model: Mapping[str, Any],
    made: TraceSettings,
    tree_size: int,
    allow_other_pair: bool,
) -> list[HardwareProfile]:
    """The profiles that ``hardware=`` names.

    Args:
        hardware: FILE or NAME, None to measure this machine, or a list of these.
        measured: where this machine's profile is kept.
        model: the pair to measure.
        made: what the trace was made with.
        tree_size: nodes verified.
        allow_other_pair: measure another pair than the trace's.

    Raises:
        ConfigError: there is none, one is neither file nor name, or two cannot be told apart by their names.
    """
    named: Any = [hardware] if hardware is None or isinstance(hardware, str) else hardware
    if not isinstance(named, Sequence) or not named or any(not isinstance(value, str | None) for value in named):
        raise ConfigError(f"hardware: expected FILE, NAME, null, or a list of them, [FILE,NAME,…]; got {hardware!r}")
    found = [
        profile_for(made.read_for(tree_size), value, measured, model, allow_other_pair=allow_other_pair)
        for value in named
    ]
    slugs = [slug(profile.name) for profile in found]
    double = [profile.name for profile in found if slugs.count(slug(profile.name)) > 1]
    if double:
        raise ConfigError(
            f"hardware: profiles need names of their own, got twice {double[0]!r}; rename one in its file"
        )
    return found


def slug(name: str) -> str:
    """A profile's name as part of a file's: letters and digits, the rest dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "profile"
