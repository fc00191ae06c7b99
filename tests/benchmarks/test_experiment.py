"""An experiment's folder: it goes on where it was killed, and refuses to mix settings."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from radar_rl.benchmarks.experiment import ABOUT, MEASURED, ROWS, experiment, sized, with_contents
from radar_rl.errors import ConfigError, InputError

SETTINGS: dict[str, Any] = {"seed": 0, "tasks": ("a", "b")}


def measured(folder: Path, *, stop_before: str | None = None, **other: Any) -> list[str]:
    """Measure three things, or those that are missing; the ones measured now."""
    now = []
    with experiment("radar", str(folder), SETTINGS | other, {"pair": "pocket"}) as work:
        for policy in ("static", "radar", "ours"):
            if policy == stop_before:
                raise KeyboardInterrupt
            if not work.has(policy=policy, task="a"):
                work.add(policy=policy, task="a", seconds=None if policy == "static" else 1.5)
                now.append(policy)
        work.finish(best="ours")
    return now


def test_a_killed_experiment_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, stop_before="ours")
    assert not json.loads((tmp_path / ABOUT).read_text())["complete"]
    with (tmp_path / ROWS).open("a") as lines:
        lines.write('{"policy": "ou')  # killed while it wrote
    assert measured(tmp_path) == ["ours"]
    assert measured(tmp_path) == []
    assert pl.read_parquet(tmp_path / MEASURED)["policy"].to_list() == ["static", "radar", "ours"]
    about = json.loads((tmp_path / ABOUT).read_text())
    assert about["results"] == {"best": "ours"}
    assert about["complete"]
    assert {"argv", "versions", "commit", "pair", "settings"} <= about.keys()


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    measured(tmp_path)
    with pytest.raises(ConfigError, match="seed=0 there, 1 here"):
        measured(tmp_path, seed=1)
    assert measured(tmp_path) == []


def test_a_file_or_a_policys_folder_is_told_apart_by_its_contents(tmp_path: Path) -> None:
    for name in ("config.json", "policy.safetensors"):
        (tmp_path / "policy").mkdir(exist_ok=True)
        (tmp_path / "policy" / name).write_text("one")
    weights, folder = tmp_path / "policy/policy.safetensors", str(tmp_path / "policy")
    for value in (folder, f"sampled:{folder}", str(weights)):
        weights.write_text("one")
        before = with_contents(value)
        assert before is not None
        assert before.startswith(f"{value} (sha256 ")
        (tmp_path / "policy/run.json").write_text(value)  # beside the policy, no part of it
        weights.write_text("one")
        assert with_contents(value) == before
        weights.write_text("other")
        assert with_contents(value) != before
    assert with_contents(None) is None
    for name in ("pocket_cpu", "static:3", str(tmp_path / "nowhere")):
        assert with_contents(name) == name


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text("[]")
    with pytest.raises(InputError, match="not the record of an experiment"):
        measured(tmp_path)


def test_a_size_fills_what_is_not_given() -> None:
    sizes = {"smoke": {"limit": 2, "seeds": [0]}, "full": {"limit": 80, "seeds": [0, 1, 2]}}
    assert sized("smoke", sizes, {"limit": None, "seeds": [5]}) == {"limit": 2, "seeds": [5]}
    with pytest.raises(ConfigError, match="unknown size 'huge'; valid: smoke, full"):
        sized("huge", sizes, {})
