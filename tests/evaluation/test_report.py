import io

import polars as pl
from rich.console import Console
from synthetic_trace import HARDWARE

from radar_rl.evaluation.compare import comparison, contenders
from radar_rl.evaluation.report import print_comparison
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


def test_few_prompts_say_why_there_is_no_interval(trace: Trace) -> None:
    text, _, _ = printed(trace.select(pl.Series(trace.sequences.prompt_id).is_in(["p0", "p2"]).to_numpy()))
    assert "No intervals: fewer than 10 prompts" in text
    assert "by task" not in text
