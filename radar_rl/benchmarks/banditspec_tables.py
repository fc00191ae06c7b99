"""``bench banditspec`` on the terminal: the figures, the paper's where it has numbers, and what differs in words."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table

from radar_rl.benchmarks.banditspec_figures import ALONE, BANDIT, BEST, WORST
from radar_rl.benchmarks.published import published
from radar_rl.benchmarks.ratios import relative, shown
from radar_rl.benchmarks.telling import in_line

WIDTH = 110
NAMES = {
    ALONE: "target alone",
    BEST: "best\narm",
    WORST: "worst\narm",
    "ucbspec": "UCBSpec",
    "ucbspec-throughput": "UCBSpec,\ntokens/s",
    "exp3spec": "EXP3Spec",
}
PAPERS_TARGET = {"llama": "LLaMA3-8B-Instruct", "qwen2": "Qwen2-7B-Instruct"}
PAPERS_TASK = {"spec_bench": "Spec Bench"}  # beside every other task: Alpaca, which §6.2 takes
PAPERS_NAME = {ALONE: "Vanilla", "ucbspec": "UCBSpec", "exp3spec": "EXP3Spec"}


def called(policy: str) -> str:
    """How tables and pictures call a policy: static depths by the paper's γ."""
    return NAMES.get(policy, f"γ={policy.removeprefix('static-')}")


def tables(found: pl.DataFrame, labels: Mapping[str, str], tasks: list[str]) -> Iterator[str | Table]:
    """Of each target: throughput by batch size, the bandits' regret, and batches of 1 beside replay and paper.

    Args:
        found: of ``banditspec_figures.figures``.
        labels: what each target's pair is called.
        tasks: whose texts they are.

    Yields:
        Each table behind its title, which is longer than some tables are wide.
    """
    for (target,), of_target in found.group_by("target", maintain_order=True):
        yield f"{labels[str(target)]}: throughput over the target alone, by batch size and speculation length γ"
        yield "best and worst arm: of each batch, chosen in hindsight, as in the paper"
        yield _throughput(of_target)
        yield "Bandits against arms, in throughput; rounds: the paper's stopping-time regret"
        yield _regret(of_target)
        single = of_target.filter(pl.col("batch") == 1)
        if single.is_empty():
            continue
        yield "Batches of 1, live and replayed with this machine's profile"
        yield _replayed(single)
        if target in PAPERS_TARGET:
            theirs, column = PAPERS_TARGET[str(target)], _column(tasks)
            yield f"Batches of 1 beside the paper's Table 1, {theirs}, {column}; its arms: draft methods"
            yield _beside_the_paper(single, published("banditspec")["draft_models"][theirs][column])


def _column(tasks: list[str]) -> str:
    """Which of the paper's sets stands beside some tasks."""
    return next((PAPERS_TASK[task] for task in tasks if task in PAPERS_TASK), "Alpaca")


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _throughput(of_target: pl.DataFrame) -> Table:
    """Rows are batch sizes, columns arms and bandits: throughput over the target's alone."""
    names = [name for name in of_target["policy"].unique(maintain_order=True) if name != ALONE]
    table = _table("batch", "alone,\ntokens/s", *map(called, names))
    for (batch,), here in of_target.group_by("batch", maintain_order=True):
        rows = {row["policy"]: row for row in here.iter_rows(named=True)}
        cells = [shown("{:.2f}×", rows[name]["improvement"]) for name in names]
        table.add_row(str(batch), shown("{:.1f}", rows[ALONE]["tokens_per_second"]), *cells)
    return table


def _regret(of_target: pl.DataFrame) -> Table:
    """Bandits against the arms."""
    against = ("regret to the\nbest γ", "to the best γ\nof each batch", "gain over the\nworst γ", "more rounds\na text")
    table = _table("batch", "bandit", *against, "draft\ncalls", "τ")
    for _, here in of_target.filter(pl.col("kind") == BANDIT).group_by("batch", maintain_order=True):
        for row in here.iter_rows(named=True):
            told = [shown("{:+.1%}", row[name]) for name in ("regret", "regret_hindsight", "gain")]
            told += [f"{row['more_rounds']:+.1f}"]
            told += [shown("{:.2f}", row[name]) for name in ("draft_calls", "acceptance_length")]
            table.add_row(str(row["batch"]), _one_line(row["policy"]), *told)
        table.add_section()
    return table


def _replayed(single: pl.DataFrame) -> Table:
    """Batches of 1: live seconds beside those of the replay."""
    columns = ("live\ntokens/s", "replayed\ntokens/s", "error", "live\n× alone", "replayed\n× alone", "error")
    table = _table("policy", *columns)
    for row in single.filter(pl.col("replay_error").is_not_null()).iter_rows(named=True):
        speeds = [f"{row[name]:.1f}" for name in ("tokens_per_second", "replayed_tokens_per_second")]
        gains = [shown("{:.2f}×", row[name]) for name in ("improvement", "replayed_improvement")]
        error = shown("{:+.1%}", relative(row["replayed_improvement"], row["improvement"]))
        table.add_row(_one_line(row["policy"]), *speeds, f"{row['replay_error']:+.1%}", *gains, error)
    return table


def _beside_the_paper(single: pl.DataFrame, theirs: Mapping[str, tuple[float, float]]) -> Table:
    """Batches of 1 beside the paper's Table 1: mean accepted tokens (bonus included, as τ has it) and speedups."""
    table = _table("policy", "τ", "paper's", "× alone", "paper's")
    for row in single.iter_rows(named=True):
        if (name := PAPERS_NAME.get(row["policy"])) is None:
            continue
        accepted, speed = theirs[name]
        own = "1.00" if row["policy"] == ALONE else shown("{:.2f}", row["acceptance_length"])
        gain = f"{speed / theirs['Vanilla'][1]:.2f}×"
        table.add_row(_one_line(row["policy"]), own, f"{accepted:.2f}", shown("{:.2f}×", row["improvement"]), gain)
    return table


def _one_line(policy: str) -> str:
    return called(policy).replace("\n", " ")


def differences(found: pl.DataFrame, machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs from the paper's setting, in words, and what was counted.

    Args:
        found: of ``banditspec_figures.figures``.
        machine: what the seconds depend on.
        settings: of the experiment.
    """
    lengths = published("banditspec")["speculation_lengths"]
    compared = found.filter(pl.col("texts").is_not_null(), pl.col("policy") != ALONE)
    drafts = "chains" if settings["top_k"] == 1 else f"trees of {settings['tree_size']} nodes"
    drawn = "greedy" if settings["temperature"] == 0 else f"temperature {settings['temperature']}"
    return "\n".join(
        [
            f"{compared['same_text'].sum()} of {compared['texts'].sum()} texts are those of the target alone",
            f"here: {in_line(machine)}; {drafts} of up to "
            f"{settings['max_depth']} tokens; {', '.join(settings['tasks'])}, {settings['limit']} prompts of each, "
            f"up to {settings['max_new_tokens']} tokens, {drawn}; every text of a batch has its bandit and, "
            "when it ends, leaves; prefill not timed",
            f"the paper, {lengths['where']}: {lengths['setting']}",
            f"no column of the paper's by batch size: {lengths['why']}; {lengths['read_by_eye']}",
        ]
    )
