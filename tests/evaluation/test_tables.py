import io
from dataclasses import replace

import polars as pl
from rich.console import Console
from synthetic_trace import HARDWARE

from radar_rl.evaluation.compare import comparison, contenders
from radar_rl.evaluation.tables import print_comparison
from radar_rl.offline.tuning import tune_rules
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.threshold import ConfidenceThreshold
from radar_rl.rollouts import Trace


def printed(trace: Trace) -> tuple[str, pl.DataFrame, str]:
    outcomes = Outcomes.of(trace, HARDWARE)
    rules = tune_rules(outcomes)
    entries = contenders(outcomes, rules, [("mine", ConfidenceThreshold(0.3), 2.0)])
    rows = comparison(outcomes, entries, rules.static.name, resamples=50, seed=0)
    screen = io.StringIO()
    print_comparison(rows, rules.static.name, "target + draft", Console(width=140, file=screen, color_system=None))
    return screen.getvalue(), rows, rules.static.name


def test_the_table_says_what_it_compares_with_and_what_drafting_costs(trace: Trace) -> None:
    text, rows, baseline = printed(trace)
    line = next(line for line in text.splitlines() if line.strip("│ ").startswith("mine"))
    mine = rows.filter((pl.col("policy") == "mine") & (pl.col("task") == "all")).row(0, named=True)
    for figure in (f"{mine['tokens_per_second']:.1f}", f"{mine['speedup_static'] - 1:+.1%}"):
        assert figure in line
    assert f"{mine['oracle_gap_closed']:.0%}" in line
    assert f"{baseline} (tuned)" in text
    assert "A draft call costs 16.1% of a round's rest" in text
    assert "Seconds: synthetic" in text
    assert "by task" in text


def test_it_fits_the_width_and_goes_from_fast_to_slow(trace: Trace) -> None:
    outcomes = Outcomes.of(trace, HARDWARE)
    rules = tune_rules(outcomes)
    names = [f"some-algorithm/{i}" for i in range(12)]
    learned = [(name, ConfidenceThreshold(0.05 * i), 2.0) for i, name in enumerate(names)]
    *others, oracle = contenders(outcomes, rules, learned)
    others[-1] = replace(others[-1], facts={"trained_for": "another machine"}, decision_microseconds=123.4)
    rows = comparison(outcomes, [*others, oracle], rules.static.name, resamples=50, seed=0)
    many = [pl.when(pl.col("task") == "second").then(pl.lit(f"second-{i}")).otherwise(pl.col("task")) for i in range(9)]
    rows = pl.concat([rows, *(rows.filter(pl.col("task") == "second").with_columns(task=task) for task in many)])
    screen = io.StringIO()
    print_comparison(rows, rules.static.name, "target + draft", Console(file=screen, color_system=None))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 110
    printed = [line.split()[0] for line in lines if line.strip().startswith("some-algorithm/")]
    overall = rows.filter((pl.col("task") == "all") & pl.col("policy").is_in(names))
    fastest = overall.sort("speedup_static", descending=True, maintain_order=True)["policy"].to_list()
    assert printed[:12] == fastest
    for task in rows["task"].unique():
        assert task == "all" or any(task in line.split() for line in lines)
    assert [line.split()[0] for line in lines if line.split()[-1:] == ["123.4"]] == names[-1:]
    assert f"Trained for other seconds: {names[-1]} (another machine)." in " ".join(screen.getvalue().split())
    mean = rows.filter((pl.col("task") == "mean") & (pl.col("policy") == names[-1])).row(0, named=True)
    by_task = [line.split() for line in lines if line.split()[:1] == [names[-1]]][1]
    assert by_task[1] == f"{mean['speedup_static'] - 1:+.1%}"
    assert by_task[4] == f"{mean['speedup_static_high'] - 1:+.1%}"


def test_few_prompts_say_why_there_is_no_interval(trace: Trace) -> None:
    text, _, _ = printed(trace.select(pl.Series(trace.sequences.prompt_id).is_in(["p0", "p2"]).to_numpy()))
    assert "No intervals: fewer than 10 prompts" in text
    assert "by task" not in text
