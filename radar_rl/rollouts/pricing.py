"""The hardware profile that a trace is priced with: a named one, or this machine's, measured with the trace's pair."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radar_rl.rollouts.trace import TraceSettings
from radar_rl.runtime.profiler import resolve_hardware
from radar_rl.speculative.hardware import HardwareProfile


def profile_for(
    made: TraceSettings,
    hardware: str | None,
    measured: Path,
    model: Mapping[str, Any],
    *,
    allow_other_pair: bool = False,
) -> HardwareProfile:
    """The profile that ``hardware=`` names, for rounds of a trace's shape.

    Args:
        made: what the trace was made with, ``read_for`` the tree size that is verified.
        hardware: FILE or NAME, None to measure this machine.
        measured: where this machine's profile is kept.
        model: the pair to measure with (a ``model`` group's mapping).
        allow_other_pair: measure another pair than the trace's.

    Raises:
        ConfigError: ``hardware`` is neither file nor name.
        ArtifactError: this machine would be measured with another pair than the trace's.
    """
    return resolve_hardware(
        hardware,
        measured,
        model,
        max_depth=made.max_depth,
        top_k=made.top_k,
        tree_size=made.tree_size,
        made_by=asdict(made),
        allow_other_pair=allow_other_pair,
    )
