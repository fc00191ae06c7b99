import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radar_rl.benchmarks import scale
from radar_rl.benchmarks.generated import generate
from radar_rl.errors import InputError, LimitError, TraceError
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.describe import description

ARGUMENTS = {"rows": 3000, "part_size": 10, "limit_gb": 4.0, "updates": 2, "batch_size": 32, "seed": 0}


def in_process(name: str, step: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    seconds, peak = scale._measured(step, arguments)
    return {"step": name, "seconds": seconds, "peak_mib": peak / scale.MEBIBYTE}


def test_every_step_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scale, "_apart", in_process)
    measured = scale.bench_scale(out=str(tmp_path), **ARGUMENTS)  # type: ignore[arg-type]
    names = ["generate", "scan", "describe", "train: every decision", "train: uniform", "train: oracle", "evaluate"]
    assert measured["step"].to_list() == names
    assert (measured["peak_mib"] > 50).all()
    printed = capsys.readouterr().out
    assert "3,000 rows, each step in a process of its own" in printed
    with pytest.raises(LimitError, match=r"at most limit_gb=0.01 at rows=3000, measured generate .* GiB"):
        scale.bench_scale(out=str(tmp_path), **ARGUMENTS | {"limit_gb": 0.01})  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="generated_rows: 3000 there, 3001 asked for"):
        scale.bench_scale(out=str(tmp_path), **ARGUMENTS | {"rows": 3001})  # type: ignore[arg-type]


def test_a_step_is_measured_in_a_process_of_its_own() -> None:
    ballast = np.ones(2**25)  # 256 MiB here that are not the step's
    measured = scale._apart("word", print, {})
    assert measured["peak_mib"] * scale.MEBIBYTE < scale.peak_bytes() - ballast.nbytes / 2
    with pytest.raises(json.JSONDecodeError):
        scale._apart("nonsense", json.loads, {"s": "nonsense"})


def test_a_number_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="updates"):
        scale.bench_scale(out=str(tmp_path), **ARGUMENTS | {"updates": 0})  # type: ignore[arg-type]


def test_a_generated_trace_is_what_was_asked_for(tmp_path: Path) -> None:
    generate(tmp_path / "a", rows=5000, part_size=16, seed=1)
    generate(tmp_path / "b", rows=5000, part_size=16, seed=1)
    trace, again = load_trace(tmp_path / "a"), load_trace(tmp_path / "b")
    assert len(trace) == 5000
    np.testing.assert_array_equal(trace.confidences, again.confidences)
    np.testing.assert_array_equal(trace.accepted, again.accepted)
    assert (np.diff(trace.confidences.astype(np.float32), axis=2) <= 0).all()
    assert set(trace.sequences.task) == {"easy", "fair", "hard", "alien"}
    assert 0 < trace.censored.mean() < 0.1
    # More calls accept more on the whole, confident drafts more than others: there is something to learn.
    tau = description(tmp_path / "a").lengths.filter(task="all")["tau"].to_list()
    assert tau == sorted(tau)
    assert tau[-1] > 2 * tau[0]
    sure = trace.confidences[:, 3, 0] > np.median(trace.confidences[:, 3, 0])
    assert trace.accepted[sure, 7].mean() > 1.5 * trace.accepted[~sure, 7].mean()


def test_generating_goes_on_where_it_stopped(tmp_path: Path) -> None:
    generate(tmp_path, rows=3000, part_size=10, seed=0)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    generate(tmp_path, rows=3000, part_size=10, seed=0)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
