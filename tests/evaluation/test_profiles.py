from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_trace import HARDWARE

from radar_rl.errors import ConfigError
from radar_rl.evaluation.profiles import profiles, slug
from radar_rl.rollouts import Trace


def chosen(trace: Trace, hardware: Any) -> list[str]:
    made = trace.settings
    return [p.name for p in profiles(hardware, Path("unused"), {}, made, made.tree_size, False)]


def test_one_several_files_and_names(trace: Trace, hardware_file: Path) -> None:
    assert chosen(trace, str(hardware_file)) == ["synthetic"]
    both = chosen(trace, ["radar_llama31_8b", str(hardware_file)])
    assert both == ["RADAR's constants for Llama-3.1-8B", "synthetic"]
    assert [slug(name) for name in both] == ["radar-s-constants-for-llama-3-1-8b", "synthetic"]


@pytest.mark.parametrize("hardware", [[], 7, ["gpu_fast", 7], {"plain": "x"}])
def test_anything_else_is_named(trace: Trace, hardware: object) -> None:
    with pytest.raises(ConfigError, match="expected FILE, NAME, null, or a list"):
        chosen(trace, hardware)


def test_profiles_that_cannot_be_told_apart_are_refused(trace: Trace, hardware_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    replace(HARDWARE, rest_seconds=0.5).save(other)
    with pytest.raises(ConfigError, match="twice 'synthetic'"):
        chosen(trace, [str(hardware_file), str(other)])
