from dataclasses import replace

import polars as pl
import pytest
from synthetic_trace import HARDWARE

from radar_rl.evaluation.compare import SCHEMA, comparison, contenders
from radar_rl.offline.tuning import RULE_FEATURES, RULES, tune_rules
from radar_rl.offline.walk import Outcomes, walk_oracle, walk_policy
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.threshold import ConfidenceThreshold
from radar_rl.rollouts import Trace


def compared(trace: Trace, hardware=HARDWARE, resamples: int = 50) -> tuple[pl.DataFrame, str]:
    outcomes = Outcomes.of(trace, hardware)
    rules = tune_rules(outcomes)
    entries = contenders(outcomes, rules, [("learned", ConfidenceThreshold(0.3), 1.5)])
    return comparison(outcomes, entries, rules.static.name, resamples=resamples, seed=0), rules.static.name


def test_every_policy_has_a_row_for_all_tasks_and_for_each(trace: Trace) -> None:
    rows, baseline = compared(trace)
    assert rows.schema == pl.Schema(SCHEMA)
    assert rows["task"].unique(maintain_order=True).to_list() == ["all", "first", "second"]
    assert rows.height == 3 * (8 + len(RULES) - len(RULE_FEATURES) + 1 + 1)
    base = rows.filter(pl.col("policy") == baseline)
    assert base["speedup_static"].to_list() == [1.0] * 3
    assert base["oracle_gap_closed"].to_list() == [0.0] * 3
    best = rows.filter(pl.col("kind") == "oracle")
    assert best["oracle_gap_closed"].to_list() == [1.0] * 3
    assert (
        best["tokens_per_second"].to_list()
        == rows.group_by("task", maintain_order=True).max()["tokens_per_second"].to_list()
    )
    assert rows.filter(pl.col("kind") == "learned")["training_seconds"].to_list() == [1.5] * 3
    by_task = rows.filter((pl.col("task") != "all") & (pl.col("kind") == "oracle"))
    assert by_task["prompts"].sum() == rows["prompts"][0] == 60


def test_the_figures_are_those_of_the_walk(trace: Trace) -> None:
    rows, baseline = compared(trace)
    outcomes = Outcomes.of(trace, HARDWARE)
    run = walk_policy(outcomes, ConfidenceThreshold(0.3))
    static = walk_policy(outcomes, StaticDepth(int(baseline.removeprefix("static-"))))
    row = rows.filter((pl.col("kind") == "learned") & (pl.col("task") == "all")).row(0, named=True)
    speeds = [walk.tokens_per_second for walk in (run, static, walk_oracle(outcomes))]
    assert row["tokens_per_second"] == pytest.approx(speeds[0])
    assert row["speedup_static"] == pytest.approx(speeds[0] / speeds[1])
    assert row["speedup_autoregressive"] == pytest.approx(speeds[0] * 0.0051)
    assert row["oracle_gap_closed"] == pytest.approx((speeds[0] - speeds[1]) / (speeds[2] - speeds[1]))
    assert row["acceptance_length"] == pytest.approx(run.acceptance_length)
    assert row["speedup_static_low"] <= row["speedup_static"] <= row["speedup_static_high"]


def test_what_nobody_measured_is_left_empty(trace: Trace) -> None:
    rows, _ = compared(trace, replace(HARDWARE, autoregressive_seconds=None))
    assert rows["speedup_autoregressive"].is_null().all()


def test_few_prompts_have_figures_but_no_interval(trace: Trace) -> None:
    few = trace.select(pl.Series(trace.sequences.prompt_id).is_in(["p0", "p2", "p4"]).to_numpy())
    rows, _ = compared(few)
    assert rows["task"].unique().to_list() == ["all"]  # one task: no second table
    assert rows["speedup_static_low"].is_null().all()
    assert rows["speedup_static"].is_not_null().all()


def test_equal_ids_of_two_tasks_are_two_prompts(trace: Trace) -> None:
    same = replace(trace, sequences=replace(trace.sequences, prompt_id=[f"p{i // 2}" for i in range(60)]))
    rows, _ = compared(same)
    assert rows["prompts"][0] == 60
