from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from synthetic_trace import HARDWARE

from radar_rl.errors import ConfigError
from radar_rl.evaluation.compare import SCHEMA, comparison, contenders
from radar_rl.offline.tuning import tune_rules
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
    assert rows["task"].unique(maintain_order=True).to_list() == ["all", "mean", "first", "second"]
    policies = rows["policy"].n_unique()
    assert rows.height == 4 * policies
    base = rows.filter(pl.col("policy") == baseline)
    assert base["speedup_static"].to_list() == [1.0] * 4
    assert base["oracle_gap_closed"].to_list() == [0.0] * 4
    default = rows.filter(pl.col("policy") == "static-8")
    assert default["speedup_default"].to_list() == [1.0] * 4
    assert default["speedup_static"].to_list() == pytest.approx((1 / base["speedup_default"]).to_list(), rel=0.02)
    best = rows.filter(pl.col("kind") == "oracle")
    assert best["oracle_gap_closed"].to_list() == [1.0] * 4
    assert (
        best["tokens_per_second"].to_list()
        == rows.group_by("task", maintain_order=True).max()["tokens_per_second"].to_list()
    )
    assert rows.filter(pl.col("kind") == "learned")["training_seconds"].to_list() == [1.5] * 4
    by_task = rows.filter((~pl.col("task").is_in(["all", "mean"])) & (pl.col("kind") == "oracle"))
    assert by_task["prompts"].sum() == rows["prompts"][0] == 60
    assert set(rows["baseline"]) == {baseline}


def test_the_mean_weighs_every_task_the_same(trace: Trace) -> None:
    # Of the second task a third of the texts is left: over all texts it counts for less, in the mean it does not.
    few = trace.select(np.array([i % 2 == 0 or i % 3 == 0 for i in range(60)]))
    rows, _ = compared(few, resamples=400)
    mine = {row["task"]: row for row in rows.filter(pl.col("kind") == "learned").iter_rows(named=True)}
    mean = mine["mean"]
    assert mean["speedup_static"] == pytest.approx(
        (mine["first"]["speedup_static"] + mine["second"]["speedup_static"]) / 2
    )
    assert mean["speedup_static"] != mine["all"]["speedup_static"]
    assert mean["speedup_static_low"] < mean["speedup_static"] < mean["speedup_static_high"]
    assert mean["prompts"] == mine["all"]["prompts"]
    best = rows.filter((pl.col("kind") == "oracle") & (pl.col("task") == "mean"))["speedup_static"][0]
    assert mean["oracle_gap_closed"] == pytest.approx((mean["speedup_static"] - 1) / (best - 1))


def test_a_task_of_few_prompts_leaves_the_mean_without_an_interval(trace: Trace) -> None:
    rows, _ = compared(trace.select(np.array([i % 2 == 0 or i < 18 for i in range(60)])))  # 9 of the second task
    assert rows.filter(pl.col("task") == "mean")["speedup_static_low"].is_null().all()
    assert rows.filter(pl.col("task") == "all")["speedup_static_low"].is_not_null().all()


def test_what_is_known_of_a_run_stands_in_its_rows(trace: Trace) -> None:
    outcomes = Outcomes.of(trace, HARDWARE)
    rules = tune_rules(outcomes)
    facts = {"trained_for": "elsewhere", "algorithm": "cql", "positions": 1000, "seed": 3}
    *others, oracle = contenders(outcomes, rules, [("mine", ConfidenceThreshold(0.3), 1.5)])
    others[-1] = replace(others[-1], facts=facts, decision_microseconds=12.5)
    rows = comparison(outcomes, [*others, oracle], rules.static.name, resamples=10, seed=0)
    mine = rows.filter(pl.col("policy") == "mine").select(*facts, "observation", "decision_microseconds").unique()
    assert mine.rows() == [("elsewhere", "cql", 1000, 3, None, 12.5)]
    assert rows.filter(pl.col("policy") != "mine")["trained_for"].is_null().all()


def test_two_policies_of_one_name_are_refused(trace: Trace) -> None:
    outcomes = Outcomes.of(trace, HARDWARE)
    rules = tune_rules(outcomes)
    entries = contenders(outcomes, rules, [("oracle", ConfidenceThreshold(0.3), 1.5)])
    with pytest.raises(ConfigError, match="called oracle"):
        comparison(outcomes, entries, rules.static.name, resamples=10, seed=0)


def test_the_share_of_a_draft_call_is_that_of_the_trees_verified(trace: Trace) -> None:
    larger = replace(HARDWARE, verify_nodes=(1, 60, 256), verify_seconds=(0.0050, 0.0060, 0.0200))
    rows, _ = compared(trace, larger)
    assert rows["marginal_draft_share"][0] == pytest.approx(0.001 / 0.0062)


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


def test_without_the_default_depth_nothing_is_compared_with_it(trace: Trace) -> None:
    outcomes = Outcomes.of(trace, HARDWARE)
    rules = tune_rules(outcomes)
    some = [entry for entry in contenders(outcomes, rules, []) if entry.name != "static-8"]
    rows = comparison(outcomes, some, rules.static.name, resamples=10, seed=0)
    assert rows["speedup_default"].is_null().all()
    assert rows["speedup_static"].is_not_null().all()


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
