"""The hardware profile: measured, kept, named; and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radar_rl.errors import ConfigError, InputError
from radar_rl.runtime.profiler import profile, resolve_hardware
from radar_rl.speculative import HardwareProfile, tree_nodes

SHAPE = {"max_depth": 3, "top_k": 4, "tree_size": 16}


def model(tiny_pair: tuple[Path, Path]) -> dict[str, Any]:
    return {
        "name": "tiny",
        "target": str(tiny_pair[0]),
        "draft": str(tiny_pair[1]),
        "dtype": "float32",
        "device": "cpu",
    }


def test_a_measured_profile_is_complete_and_comes_back(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    measured = profile(out=str(tmp_path / "p.json"), model=model(tiny_pair), repeats=2, seed=0, **SHAPE)
    assert HardwareProfile.load(tmp_path / "p.json") == measured
    assert len(measured.draft_seconds) == 3
    assert measured.verify_nodes[-1] == 16
    assert min(*measured.draft_seconds, *measured.verify_seconds, measured.decide_seconds) > 0
    assert measured.autoregressive_seconds is not None
    assert measured.autoregressive_seconds > 0


def test_the_profile_of_this_machine_is_measured_once(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    first = resolve_hardware(None, tmp_path / "hardware.json", model(tiny_pair), **SHAPE)
    assert resolve_hardware(None, tmp_path / "hardware.json", model(tiny_pair), **SHAPE) == first


def test_shipped_profiles_load_by_name_and_unknown_names_are_refused(tmp_path: Path) -> None:
    radar = resolve_hardware("radar_llama31_8b", tmp_path / "x", {}, **SHAPE)
    assert radar.draft_seconds[0] == pytest.approx(2.684e-3)
    with pytest.raises(ConfigError, match=r"names: .*radar_llama31_8b"):
        resolve_hardware("no_such_machine", tmp_path / "x", {}, **SHAPE)


def test_seconds_of_rounds_add_up() -> None:
    hardware = HardwareProfile("x", (1.0, 2.0), (11, 60), (10.0, 20.0), 0.1, 5.0)
    nodes = tree_nodes(4, 10, 60)
    assert nodes.tolist() == [11, 60, 60, 60]
    np.testing.assert_allclose(hardware.round_seconds(nodes), [16.0, 28.0, 30.0, 32.0])
    assert tree_nodes(4, 10, 60, widen_first_level=True).tolist() == [60, 60, 60, 60]
    assert tree_nodes(3, 1, 60).tolist() == [2, 3, 4]
    assert hardware.marginal_draft_share == pytest.approx(2.0 / 25.0)


@pytest.mark.parametrize(
    "change",
    [
        {"draft_seconds": []},
        {"verify_seconds": [1.0]},
        {"verify_nodes": [60, 11]},
        {"rest_seconds": -1.0},
        {"rest_seconds": float("nan")},
        {"surprise": 1},
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    good = {
        "name": "x",
        "draft_seconds": [1.0],
        "verify_nodes": [11, 60],
        "verify_seconds": [1.0, 2.0],
        "decide_seconds": 0.0,
        "rest_seconds": 0.0,
    }
    HardwareProfile.from_mapping(dict(good), "test")
    with pytest.raises(InputError):
        HardwareProfile.from_mapping(good | change, "test")
