"""``compare``: runs of a sweep across seeds, by what they reached in training or by exact replay."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from matplotlib import image
from synthetic_trace import HARDWARE, make_trace, write_collection

from radar_rl.errors import ConfigError, InputError
from radar_rl.evaluation.compare_runs import compare
from radar_rl.evaluation.evaluate import evaluate
from radar_rl.evaluation.groups import grouped, spread
from radar_rl.offline.train import train

COMMON = {"model": {}, "allow_other_pair": False, "resamples": 100, "seed": 0}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trace, its hardware, and a sweep: bc of two behaviours, two seeds each, and cql."""
    folder = tmp_path_factory.mktemp("sweep")
    write_collection(folder / "traces", make_trace(prompts=30, new_tokens=30, seed=3))
    HARDWARE.save(folder / "hardware.json")
    for name, behaviour, seed in [("bc", "oracle", 0), ("bc", "oracle", 1), ("bc", "full", 0), ("cql", "full", 0)]:
        train(
            out=str(folder / "runs" / f"{name}-{behaviour}-{seed}"),
            traces=str(folder / "traces"),
            rollouts=None,
            algo={"name": name},
            behaviour=behaviour,  # type: ignore[arg-type]
            episode="sequence",
            reward={"kind": "throughput"},
            hardware=str(folder / "hardware.json"),
            held_out=0.3,
            steps=20,
            batch_size=32,
            seed=seed,
            model={},
            wandb="disabled",
            tree_size=None,
        )
    return folder


def test_by_what_they_reached_in_training(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(sweep / "runs"), str(sweep / "runs" / "cql-full-0")]  # the second is in the first
    rows = compare(out=str(tmp_path / "out"), runs=runs, traces=None, hardware=None, **COMMON)
    table = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert table.to_dicts() == rows
    assert [Path(row["folder"]).name for row in rows] == ["bc-full-0", "bc-oracle-0", "bc-oracle-1", "cql-full-0"]
    for row in rows:
        assert row["gain"] == pytest.approx(row["tokens_per_second"] / row["best_static_tokens_per_second"] - 1)
        assert row["measured_on"] == "the training prompts"
    assert [(group.name, group.rows) for group in grouped(table)] == [
        ("bc · full", [0]),
        ("bc · oracle", [1, 2]),
        ("cql", [3]),
    ]
    printed = capsys.readouterr().out
    mean, deviation = spread([rows[1]["gain"], rows[2]["gain"]])
    (line,) = (line for line in printed.splitlines() if "bc · oracle" in line)
    assert f"{mean:+.1%}" in line
    assert f"{deviation:.2%}" in line
    assert image.imread(tmp_path / "out" / "compare.png").std() > 0.01


def test_by_exact_replay_on_each_machine(sweep: Path, tmp_path: Path) -> None:
    hardware = [str(sweep / "hardware.json"), "gpu_fast"]
    traces = str(sweep / "traces")
    rows = compare(out=str(tmp_path / "out"), runs=[str(sweep / "runs")], traces=traces, hardware=hardware, **COMMON)
    assert [row["measured_hardware"] for row in rows] == ["synthetic"] * 4 + ["fast GPU (assumed)"] * 4
    alone = evaluate(
        out=str(tmp_path / "alone"),
        traces=traces,
        runs=[str(sweep / "runs" / "bc-oracle-1")],
        hardware="gpu_fast",
        held_out=0.0,
        tree_size=None,
        **COMMON,
    )
    (learned,) = (row for row in alone if row["kind"] == "learned" and row["task"] == "all")
    # Each machine's figures stand beside their own runs'.
    assert [Path(row["folder"]).name for row in rows] == ["bc-full-0", "bc-oracle-0", "bc-oracle-1", "cql-full-0"] * 2
    assert rows[6]["tokens_per_second"] == learned["tokens_per_second"]
    assert rows[6]["gain"] == pytest.approx(learned["speedup_static"] - 1)
    assert (tmp_path / "out" / "compare.png").is_file()
    assert (tmp_path / "out" / "evaluation" / "evaluation.parquet").is_file()


def test_the_same_training_in_two_folders_is_one_seed(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "runs", tmp_path / "again")
    runs = [str(sweep / "runs"), str(tmp_path / "again")]
    rows = compare(out=str(tmp_path / "out"), runs=runs, traces=None, hardware=None, **COMMON)
    assert len(rows) == 8
    table = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert [group.rows for group in grouped(table)] == [[0], [1, 2], [3]]


def test_what_cannot_be_compared_is_named(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        compare(out=str(tmp_path), runs=[str(tmp_path / "x")], traces=None, hardware=None, **COMMON)
    with pytest.raises(InputError, match="no finished run"):
        compare(out=str(tmp_path), runs=[str(tmp_path)], traces=None, hardware=None, **COMMON)
    with pytest.raises(InputError, match="expected folders"):
        compare(out=str(tmp_path), runs=[], traces=None, hardware=None, **COMMON)
    with pytest.raises(ConfigError, match="traces=DIR"):
        compare(out=str(tmp_path), runs=[str(sweep / "runs")], traces=None, hardware="gpu_fast", **COMMON)
