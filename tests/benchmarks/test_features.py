"""``bench features``: every feature has its own time, beside a draft call's."""

import json
from pathlib import Path
from typing import Any

import pytest

from radar_rl import cli
from radar_rl.benchmarks.features import bench_features
from radar_rl.configs import load
from radar_rl.errors import ConfigError, InputError
from radar_rl.speculative.features import COLUMNS

SMALL: dict[str, Any] = {"max_depth": 3, "top_k": 4, "tree_size": 12, "max_new_tokens": 10, "repeats": 1}


def test_the_command_prints_every_feature_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep/features.json"
    small = [f"{key}={value}" for key, value in SMALL.items()]
    assert cli.main(["bench", "features", *small, "messages=[Two plus two?]", f"out={out}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    figures = json.loads(out.read_text())
    assert [cost["name"] for cost in figures["costs"]] == list(COLUMNS)
    assert all(name in printed for name in COLUMNS)
    assert min(figures["draft_seconds"], *(cost["seconds"] for cost in figures["costs"])) > 0
    numbers = {cost["name"]: cost["numbers"] for cost in figures["costs"]}
    assert numbers == {
        "entropy": 1,
        "margin": 1,
        "log_probs": 4,
        "mass": 3,
        "ngram": 1,
        "hidden": 16,
        "target": 16,
        "top_mass": 1,
    }
    assert figures["rounds"] == 3


def test_some_features_are_measured_alone() -> None:
    settings = {key: value for key, value in load("bench-features").items() if key != "defaults"}
    settings |= {"model": load("model", "pocket_eagle2"), "messages": ["Two plus two?"], **SMALL}
    measured = bench_features(**settings | {"features": ["target", "mass"]})
    assert [(cost.name, cost.per_call) for cost in measured.costs] == [("mass", True), ("target", False)]
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"features": []}, ConfigError, "expected at least one"),
        ({"messages": []}, ConfigError, "expected at least one"),
        ({"features": ["mas"]}, ConfigError, "did you mean 'mass'"),
        ({"feature_dim": 0}, ConfigError, "feature_dim"),
        ({"max_depth": 1}, InputError, "max_depth: expected a whole number ≥ 2"),
        ({"repeats": 0}, InputError, "repeats"),
    ]
    for values, error, message in wrong:
        with pytest.raises(error, match=message):
            bench_features(**settings | values)
