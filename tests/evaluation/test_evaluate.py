import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic_trace import MadeTrace, make_trace, with_features, write_collection

from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.evaluation.evaluate import evaluate
from radar_rl.offline.tuning import RULE_FEATURES, RULES
from radar_rl.rollouts import Trace
from radar_rl.rollouts.split import held_out


def evaluation(collection: Path, hardware_file: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "traces": str(collection),
        "runs": [],
        "hardware": str(hardware_file),
        "model": {},
        "allow_other_pair": False,
        "held_out": 0.3,
        "seed": 0,
        "tree_size": None,
        "resamples": 100,
    } | changes


def test_runs_rules_and_oracle_on_held_out_prompts_only(
    collection: Path, hardware_file: Path, runs: dict[str, Path], trace: Trace, tmp_path: Path, capsys
) -> None:
    both = [str(runs["cql"]), str(runs["bc"])]
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path, runs=both, held_out=0.9))
    overall = [row for row in rows if row["task"] == "all"]
    assert [row["policy"] for row in overall][:8] == [f"static-{depth}" for depth in range(1, 9)]
    rules = [kind for kind in RULES if kind not in RULE_FEATURES]  # the trace was collected with no features
    assert [row["kind"] for row in overall][8:] == ["rule"] * len(rules) + ["learned", "learned", "oracle"]
    assert all(row["policy"].startswith(rule) for row, rule in zip(overall[8:], rules, strict=False))
    # The runs' own split counts, not held_out=.
    assert overall[0]["prompts"] == held_out(trace.sequences.prompt_id, 0.3).sum()
    written = pl.read_parquet(tmp_path / "evaluation.parquet")
    assert written.to_dicts() == rows
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for words in ("oracle", "cql", "tokens/s", "A draft call costs 16.1% of a round's rest", "by task"):
        assert words in " ".join(printed.split())


def test_without_runs_rules_and_oracle_are_shown(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path))
    assert {row["kind"] for row in rows} == {"static", "rule", "oracle"}


def test_rules_look_at_the_features_that_the_trace_has(hardware_file: Path, trace: MadeTrace, tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "traces", with_features(trace))
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path / "out"))
    names = [row["policy"].rpartition("-")[0] for row in rows if row["kind"] == "rule"]
    assert {"p-min", "svip", "adaedl"} < set(names)


def test_what_any_run_was_trained_on_is_left_out(
    collection: Path, hardware_file: Path, runs: dict[str, Path], trace: Trace, tmp_path: Path
) -> None:
    names = [str(runs["bc"]), str(runs["bc-again"])]
    rows = evaluate(**evaluation(collection, hardware_file, tmp_path, runs=names))
    assert rows[0]["prompts"] == held_out(trace.sequences.prompt_id, 0.2).sum()
    # Two runs of one algorithm are told apart by their folders.
    assert {row["policy"] for row in rows if row["kind"] == "learned"} == {"bc", "bc-again"}


def test_few_prompts_are_warned_about(collection, hardware_file, tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        rows = evaluate(**evaluation(collection, hardware_file, tmp_path, held_out=0.1))
    assert rows[0]["prompts"] < 10
    assert rows[0]["speedup_static_low"] is None
    assert "fewer than 10" in caplog.text


def test_another_pair_is_refused_unless_asked_for(hardware_file: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    other = write_collection(tmp_path / "traces", make_trace(prompts=40, new_tokens=30, target="other@1"))
    asked = evaluation(other, hardware_file, tmp_path / "out", runs=[str(runs["bc"])])
    with pytest.raises(TraceError, match="allow_other_pair=true"):
        evaluate(**asked)
    rows = evaluate(**asked | {"allow_other_pair": True})
    assert any(row["policy"] == "bc" for row in rows)


@pytest.mark.parametrize("shape", [{"top_k": 4}, {"max_depth": 5}])
def test_another_tree_shape_is_refused(
    hardware_file: Path, runs: dict[str, Path], tmp_path: Path, shape: dict[str, int]
) -> None:
    other = write_collection(tmp_path / "traces", make_trace(prompts=20, new_tokens=30, **shape))
    with pytest.raises(TraceError, match=next(iter(shape))):
        evaluate(**evaluation(other, hardware_file, tmp_path / "out", runs=[str(runs["bc"])], allow_other_pair=True))


def test_nothing_to_evaluate_on(collection: Path, hardware_file: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="evaluate on"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, held_out=0.0))
    with pytest.raises(TraceError, match="tune rules on"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, held_out=1.0))
    with pytest.raises(InputError, match="radar-rl train"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, runs=[str(tmp_path)]))
    with pytest.raises(ConfigError, match="resamples"):
        evaluate(**evaluation(collection, hardware_file, tmp_path, resamples=0))
