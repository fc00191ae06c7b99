"""The figures of a policy, from the table that ``evaluate`` wrote."""

from pathlib import Path

import polars as pl
import pytest

from radar_rl.errors import InputError
from radar_rl.evaluation.compare import SCHEMA
from radar_rl.evaluation.export import export
from radar_rl.evaluation.figures import evaluation_figures
from radar_rl.policies import ConfidenceThreshold
from radar_rl.runtime import load_artifact, save_policy


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        {"policy": policy, "task": task, "hardware": "gpu", "speedup_static": gain, "acceptance_length": float("nan")}
        for policy, gain in (("threshold-0.4", 1.1), ("a/net", 1.2), ("b/net", 1.3), ("oracle", 2.0))
        for task in ("all", "math")
    ]
    pl.DataFrame(rows, schema=SCHEMA).write_parquet(tmp_path / "evaluation.parquet")
    return tmp_path


def test_a_policy_is_found_by_its_name_or_its_path(table: Path) -> None:
    rows = evaluation_figures(table, "runs/rules/threshold-0.4", "threshold-0.4")["held_out"]
    assert [(row["task"], row["speedup_static"]) for row in rows] == [("all", 1.1), ("math", 1.1)]
    assert rows[0]["acceptance_length"] is None  # JSON has no NaN
    assert "policy" not in rows[0]
    assert "trained_for" not in rows[0]
    gains = [evaluation_figures(table / "evaluation.parquet", f"runs/{x}/net", "net")["held_out"][0] for x in "ab"]
    assert [row["speedup_static"] for row in gains] == [1.2, 1.3]


def test_what_is_no_table_or_not_in_it_is_named(table: Path) -> None:
    with pytest.raises(InputError, match=r"has no policy c of runs/c; it has threshold-0.4, a/net, b/net, oracle"):
        evaluation_figures(table, "runs/c", "c")
    with pytest.raises(InputError, match="no table at"):
        evaluation_figures(table / "nowhere", "runs/c", "c")
    (table / "evaluation.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="no table at"):
        evaluation_figures(table, "runs/c", "c")
    pl.DataFrame({"policy": ["c"]}).write_parquet(table / "evaluation.parquet")
    with pytest.raises(InputError, match="lacks acceptance_length"):
        evaluation_figures(table, "runs/c", "c")


def test_exported_with_its_figures(table: Path) -> None:
    save_policy(table / "rule", ConfidenceThreshold(0.4), {"target": "a@1"})
    export(run=str(table / "rule"), out=str(table / "out"), evaluation=str(table))
    about = load_artifact(table / "out").about
    assert about["evaluation"]["held_out"][1]["speedup_static"] == 1.1
    assert about["target"] == "a@1"
