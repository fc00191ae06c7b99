import json
from pathlib import Path

import polars as pl
import pytest

from radar_rl.errors import ConfigError, InputError
from radar_rl.offline.results import RESULTS_FILE, SCHEMA, gather_results, write_results
from radar_rl.offline.run import finished, identity


def record(folder: Path, seed: int = 0, **changes) -> Path:
    """A finished run's record."""
    arguments = {
        "traces": "here",
        "algo": {"name": "cql", "alpha": 0.1},
        "behaviour": "full",
        "episode": "sequence",
        "reward": {"kind": "throughput", "rate": None},
        "observation": ["confidences", "depth"],
        "seed": seed,
    }
    about = {
        "name": "cql",
        "algorithm": arguments["algo"],
        "arguments": arguments,
        "split": {"held_out": 0.3},
        "trace": {"target": "t", "draft": "d"},
        "data_hash": "abc",
        "hardware": {"name": "machine", "draft_seconds": [0.1]},
        "training_seconds": 3.0,
        "training_tokens_per_second": 110.0,
        "best_static_tokens_per_second": 100.0,
        "best_static_depth": 4,
    } | changes
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def test_one_row_a_run_made_anew_from_the_records(tmp_path: Path) -> None:
    for name in ("b", "a/deeper"):
        record(tmp_path / name, seed=len(name))
    (tmp_path / "unfinished").mkdir()
    first = write_results(tmp_path)
    assert first is not None
    assert first["folder"].to_list() == ["a/deeper", "b"]
    assert first["seed"].to_list() == [8, 1]
    assert first["training_gain"].to_list() == pytest.approx([0.1, 0.1])
    assert first["validation_gain"].to_list() == [None, None]  # an older record
    assert json.loads(first["settings"][0]) == {"alpha": 0.1}
    assert json.loads(first["reward"][0]) == {"kind": "throughput"}
    (tmp_path / RESULTS_FILE).write_bytes(b"half")
    again = write_results(tmp_path)
    assert again is not None
    assert again.equals(first)
    assert pl.read_parquet(tmp_path / RESULTS_FILE).equals(first)
    assert dict(first.schema) == SCHEMA


def test_nothing_done_is_no_table(tmp_path: Path) -> None:
    assert write_results(tmp_path) is None
    assert write_results(tmp_path / "nowhere") is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no such folder"):
        gather_results(tmp_path / "nowhere")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    record(tmp_path / "fine")
    (record(tmp_path / "cut") / "run.json").write_text('{"name": ')
    with pytest.raises(InputError, match=r"cut/run\.json"):
        gather_results(tmp_path)


def test_a_run_is_the_same_wherever_its_data_lie_and_another_with_other_settings(tmp_path: Path) -> None:
    folder = record(tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    moved = about["arguments"] | {"traces": "elsewhere"}
    hardware = about["hardware"] | {"draft_seconds": (0.1,)}
    assert finished(folder, identity(moved, 0.3, "abc", hardware)) == about
    assert finished(tmp_path / "other", identity(moved, 0.3, "abc", hardware)) is None
    with pytest.raises(ConfigError, match=r"\(seed: 0 there, 1 now\).*overwrite=true"):
        finished(folder, identity(moved | {"seed": 1}, 0.3, "abc", hardware))
    with pytest.raises(ConfigError, match="data: abc there, abd now; another hardware"):
        finished(folder, identity(moved, 0.3, "abd", hardware | {"draft_seconds": [0.2] * 20}))
