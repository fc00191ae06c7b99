"""The comparison as a table on the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from radar_rl.evaluation.compare import ALL_TASKS, MEAN_OF_TASKS
from radar_rl.evaluation.statistics import MIN_PROMPTS

WIDTH = 110

KINDS = ("static", "rule", "learned", "oracle")


def told_wide(console: Console | None) -> Console:
    """A console, standard output by default, wide enough for the tables where it has no width of its own."""
    console = console or Console()
    if not console.is_terminal:
        console.width = WIDTH
    return console


def print_comparison(rows: pl.DataFrame, baseline: str, pair: str, console: Console | None = None) -> None:
    """Print the figures over all tasks, then the speedups by task if there are several.

    Args:
        rows: what ``comparison`` returned, for one profile.
        baseline: name of the tuned static depth.
        pair: how to call target and draft head.
        console: where to; standard output by default.
    """
    console = told_wide(console)
    overall = rows.filter(pl.col("task") == ALL_TASKS)
    order = _in_order(overall)
    first = overall.row(0, named=True)
    table = Table(
        title=f"{first['hardware']}: {first['texts']} texts of {first['prompts']} held-out prompts · {pair}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("policy", overflow="fold")
    for column in ("tokens/s", "× AR", "×\ndefault", f"vs\n{baseline}", "95 % interval", "τ"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("draft\ncalls", "gap\nclosed", "decision\nµs"):
        table.add_column(column, justify="right", no_wrap=True)
    kind = None
    for row in order:
        if row["kind"] != kind and kind is not None:
            table.add_section()
        kind = row["kind"]
        table.add_row(*_cells(row, baseline), style=_style(row, baseline))
    console.print(table)
    for part in _by_task(rows, [row["policy"] for row in order], baseline):
        console.print(part)
    closes = overall.row(overall.height - 1, named=True)["speedup_static"] - 1
    console.print(
        f"Oracle gap: {closes:+.1%} over {baseline} (tuned on the training prompts). A draft call costs "
        f"{first['marginal_draft_share']:.1%} of a round's rest.\nSeconds: {first['hardware']}."
    )
    if first["speedup_static_low"] is None:
        console.print(f"No intervals: fewer than {MIN_PROMPTS} prompts.")
    strangers = [row for row in order if row["trained_for"] not in (None, first["hardware"])]
    if strangers:
        told = ", ".join(f"{row['policy']} ({row['trained_for']})" for row in strangers)
        console.print(f"Trained for other seconds: {told}.")


def _in_order(overall: pl.DataFrame) -> list[dict[str, Any]]:
    """Static depths as they are, then the other kinds, each from fast to slow."""
    entries = list(overall.iter_rows(named=True))
    return sorted(
        entries, key=lambda row: (KINDS.index(row["kind"]), 0 if row["kind"] == "static" else -row["speedup_static"])
    )


def _cells(row: dict[str, Any], baseline: str) -> list[str]:
    if row["kind"] == "static":  # what the others are measured by
        row = row | {"oracle_gap_closed": None}
    if row["policy"] == baseline:
        row = row | {"speedup_static_low": None}
    low, high = row["speedup_static_low"], row["speedup_static_high"]
    alone, default = row["speedup_autoregressive"], row["speedup_default"]
    closed, decision = row["oracle_gap_closed"], row["decision_microseconds"]
    return [
        row["policy"] + (" (tuned)" if row["policy"] == baseline else ""),
        f"{row['tokens_per_second']:.1f}",
        "" if alone is None else f"{alone:.2f}",
        "" if default is None else f"{default:.2f}",
        f"{row['speedup_static'] - 1:+.1%}",
        "" if low is None else _interval(low, high),
        f"{row['acceptance_length']:.2f}",
        f"{row['draft_calls']:.2f}",
        "" if closed is None else f"{closed:.0%}",
        "" if decision is None else f"{decision:.1f}",
    ]


def _interval(low: float, high: float) -> str:
    return f"{100 * (low - 1):+.1f} … {high - 1:+.1%}"


def _style(row: dict[str, Any], baseline: str) -> str:
    if row["policy"] == baseline:
        return "bold"
    return {"static": "dim", "learned": "green"}.get(row["kind"], "")


def _by_task(rows: pl.DataFrame, policies: Sequence[str], baseline: str) -> Iterator[Table]:
    """Speedups by task, the mean over tasks and its interval first; as many tables as the tasks need."""
    tasks = [task for task in rows["task"].unique(maintain_order=True) if task not in (ALL_TASKS, MEAN_OF_TASKS)]
    figures = {(row["policy"], row["task"]): row for row in rows.iter_rows(named=True)}
    for number, part in enumerate(_parts(tasks, WIDTH - max(map(len, policies)) - 30)):
        table = Table(
            title=f"tokens/s against {baseline}, by task", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.add_column("policy", overflow="fold")
        if number == 0:
            table.add_column("mean", justify="right")
            table.add_column("95 % interval", justify="right")
        for task in part:
            table.add_column(task, justify="right", no_wrap=True)
        for policy in policies:
            mean = figures[policy, MEAN_OF_TASKS]
            low, high = mean["speedup_static_low"], mean["speedup_static_high"]
            told = policy == baseline or low is None
            cells = [f"{mean['speedup_static'] - 1:+.1%}", "" if told else _interval(low, high)]
            gains = [f"{figures[policy, task]['speedup_static'] - 1:+.1%}" for task in part]
            table.add_row(policy, *(cells if number == 0 else []), *gains, style=_style(mean, baseline))
        yield table


def _parts(tasks: Sequence[str], width: int) -> Iterator[list[str]]:
    """The tasks in parts whose columns take about ``width`` characters."""
    part: list[str] = []
    for task in tasks:
        if part and sum(max(len(other), 6) + 2 for other in [*part, task]) > width:
            yield part
            part = []
        part.append(task)
    if part:
        yield part
