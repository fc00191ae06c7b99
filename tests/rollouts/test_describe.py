from pathlib import Path

import numpy as np
import polars as pl
import pytest
from synthetic_trace import HARDWARE, MadeTrace

from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import StaticDepth
from radar_rl.rollouts import Trace
from radar_rl.rollouts.describe import describe, description


def test_counts_are_those_of_the_trace(collection: Path, trace: Trace) -> None:
    counts = description(collection).counts
    assert counts["task"].to_list() == ["first", "second", "all"]
    texts = trace.sequences
    second = np.array(texts.task) == "second"
    for row, chosen in ((1, second), (2, np.ones_like(second))):
        rows = chosen[trace.sequence]
        assert counts.row(row, named=True) | {"task": None} == {
            "task": None,
            "prompts": chosen.sum(),
            "texts": chosen.sum(),
            "rows": rows.sum(),
            "censored": trace.censored[rows].sum(),
            "prompt_tokens": texts.prompt_length[chosen].sum(),
            "completion_tokens": (texts.length - texts.prompt_length)[chosen].sum(),
        }


@pytest.mark.parametrize("tree_size", [None, 20])
def test_acceptance_lengths_come_from_walks(collection: Path, trace: MadeTrace, tree_size: int | None) -> None:
    described = description(collection, tree_size=tree_size)
    assert described.settings.tree_size == (tree_size or 60)
    outcomes = Outcomes.of(trace.at(tree_size or 60), HARDWARE)
    tasks = np.array(trace.sequences.task)
    for depth in (1, 3, 8):
        walked = walk_policy(outcomes, StaticDepth(depth))
        for task, chosen in (("first", tasks == "first"), ("all", tasks != "")):
            row = described.lengths.row(by_predicate=(pl.col("task") == task) & (pl.col("depth") == depth), named=True)
            assert row["tau"] == walked.of_sequences(chosen).acceptance_length


def test_acceptance_by_level_counts_rows_that_could_go_on(collection: Path, trace: Trace) -> None:
    rows = description(collection).acceptance.filter(pl.col("task") == "all")
    for level in range(1, 9):
        reached = accepted = 0
        for n in np.flatnonzero(~trace.censored):
            held = int(trace.accepted[n, level - 1])  # by the tree of ``level`` calls
            if held >= level - 1 and trace.remaining[n] >= level:
                reached += 1
                accepted += held >= level
        row = rows.row(level - 1, named=True)
        assert (row["level"], row["reached"], row["accepted"]) == (level, reached, accepted)
        assert row["share"] == pytest.approx(accepted / reached)


def test_the_printed_page_names_what_matters(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = describe(traces=str(collection), tree_size=None)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "3 of 3 parts · target + draft" in printed
    assert "target target@0, draft draft@0" in printed
    assert "max_depth 8, top_k 10, tree_size 60" in printed
    tau = described.lengths.row(by_predicate=(pl.col("task") == "all") & (pl.col("depth") == 8), named=True)["tau"]
    assert f"{tau:.2f}" in printed
