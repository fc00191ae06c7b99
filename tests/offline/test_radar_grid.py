"""RADAR's grid as a sweep: every combination is a run, and the command line narrows it."""

import json
from math import prod
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from radar_rl import cli
from radar_rl.configs import load


def test_the_grid_is_the_published_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grid = {
        key: str(values).split(",") for key, values in load("sweep", "radar_grid")["hydra"]["sweeper"]["params"].items()
    }
    assert prod(len(values) for values in grid.values()) == 9 * 2 * 3 * 2
    assert [float(value) for value in grid["reward.alpha"]] == [round(0.01 * i, 2) for i in range(1, 10)]
    assert set(grid) == {"reward.alpha", "algo.gamma", "algo.learning_rate", "algo.dropout"}
    monkeypatch.chdir(tmp_path)
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(cli, "call", lambda verb, values, *_: seen.append(values))
    one = ["reward.alpha=0.05", "algo.gamma=0.98", "algo.learning_rate=1e-5"]
    assert cli.main(["train", "-m", "+sweep=radar_grid", *one, "traces=x", "out=y"]) == 0
    assert [job["algo"]["dropout"] for job in seen] == [0.1, 0.2]
    (job, _) = seen
    assert (job["algo"]["name"], job["reward"]["kind"], job["episode"]) == ("radar", "radar", "round")
    assert (job["reward"]["alpha"], job["reward"]["beta"], job["algo"]["gamma"]) == (0.05, 0.03084, 0.98)


def test_a_slice_of_it_trains(
    collection: Path, hardware_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    narrowed = ["reward.alpha=0.01,0.09", "algo.gamma=0.99", "algo.learning_rate=1e-3", "algo.dropout=0.1"]
    small = ["steps=20", "batch_size=16", "algo.lstm_hidden=8", "algo.mlp_hidden=8", "reward.beta=0.004"]
    where = [f"traces={collection}", f"hardware={hardware_file}", "out=grid/${hydra:job.num}"]
    assert cli.main(["train", "-m", "+sweep=radar_grid", *narrowed, *small, *where]) == 0
    runs = sorted(Path("grid").iterdir())
    assert len(runs) == 2
    arguments = [json.loads((run / "run.json").read_text())["arguments"] for run in runs]
    assert [made["reward"]["alpha"] for made in arguments] == [0.01, 0.09]
    assert cli.main(["evaluate", *where[:2], "runs=[grid/0]", "resamples=100", "out=compared"]) == 0
    table = pl.read_parquet("compared/evaluation.parquet")
    assert "radar" in table["policy"].to_list()
    curves = [pl.read_parquet(run / "curve.parquet") for run in runs]
    assert all(curve["speed_ratio"].is_between(0.1, 3.0).all() for curve in curves)


def test_a_job_of_the_grid_that_fails_is_named_by_what_it_varies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    narrowed = ["algo.gamma=0.99", "algo.learning_rate=1e-3", "reward.alpha=0.01"]
    assert cli.main(["train", "-m", "+sweep=radar_grid", *narrowed, "traces=nowhere", "out=y"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told] == ["algo.dropout=0.1", "algo.dropout=0.2", told[2].split(": ")[1]]
