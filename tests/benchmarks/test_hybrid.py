"""``bench hybrid``: three draft sources over the same prompts, counted by task."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from radar_rl import cli
from radar_rl.errors import InputError
from radar_rl.rollouts.tasks import load_prompts


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A folder of two prompt sets: one that repeats its passage, one of two categories."""
    passage = "The ferry leaves at nine and the ferry returns at five, every day but Sunday."
    rows = [{"id": f"q{i}", "context": passage, "prompt": f"Repeat the passage, {i} times."} for i in range(11)]
    for name, lines in (
        ("told", rows),
        ("mixed", [{"prompt": "Hi!", "category": "chat"}, {"prompt": passage, "category": "rag"}]),
    ):
        (tmp_path / name).mkdir()
        with gzip.open(tmp_path / name / "eval.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return tmp_path


def test_acceptance_is_counted_by_task_and_source(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs/hybrid.parquet"
    small = ["max_new_tokens=24", "policy=static:3", "max_depth=4", "resamples=50", f"out={out}"]
    assert cli.main(["bench", "hybrid", "tasks=[told,mixed/rag]", f"data_dir={sets}", *small]) == 0
    printed = capsys.readouterr().out
    for words in ("told", "mixed/rag", "all", "hybrid / head", "36 of 36 texts are the head's"):
        assert words in printed
    rows = pl.read_parquet(out)
    assert pl.read_parquet_metadata(out)["tree_size"] == "60"
    assert rows.height == 12 * 3
    assert rows["same_text"].all()
    by_source = rows.group_by("source").agg(pl.col("tokens", "rounds", "draft_calls", "nodes").sum())
    totals = {row["source"]: row for row in by_source.iter_rows(named=True)}
    assert len({row["tokens"] for row in totals.values()}) == 1
    assert totals["ngram"]["draft_calls"] == 0
    assert totals["head"]["draft_calls"] == 3 * totals["head"]["rounds"]
    assert all(row["nodes"] <= 60 * row["rounds"] for row in totals.values())
    assert totals["hybrid"]["rounds"] <= totals["head"]["rounds"]


def test_a_category_is_a_part_of_a_task(sets: Path) -> None:
    assert [prompt.task for prompt in load_prompts(["mixed/chat"], data_dir=sets)] == ["mixed/chat"]
    assert len(load_prompts(["mixed"], data_dir=sets)) == 2
    with pytest.raises(InputError, match="no rows of category 'poems'; categories: chat, rag"):
        load_prompts(["mixed/poems"], data_dir=sets)


def test_no_resamples_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "hybrid", "resamples=0"]) == 2
    assert "resamples: expected a whole number ≥ 1" in capsys.readouterr().err
