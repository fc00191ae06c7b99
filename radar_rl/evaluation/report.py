"""The comparison as a table on the terminal."""

from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from radar_rl.evaluation.compare import ALL_TASKS
from radar_rl.evaluation.statistics import MIN_PROMPTS

WIDTH = 110


def print_comparison(rows: pl.DataFrame, baseline: str, pair: str, console: Console | None = None) -> None:
    """Print the figures over all tasks, then the speedups by task if there are several.

    Args:
        rows: what ``comparison`` returned.
        baseline: name of the tuned static depth.
        pair: how to call target and draft head.
        console: where to; standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = WIDTH  # a log or a pipe has no width of its own
    overall = rows.filter(pl.col("task") == ALL_TASKS)
    first = overall.row(0, named=True)
    table = Table(title=f"{first['texts']} texts of {first['prompts']} held-out prompts · {pair}", title_justify="left")
    for column in ("policy", "tokens/s", "× AR", f"vs {baseline}", "95 % interval"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for column in ("τ", "draft calls", "gap closed"):
        table.add_column(column, justify="right")
    kind = None
    for row in overall.iter_rows(named=True):
        if row["kind"] != kind and kind is not None:
            table.add_section()
        kind = row["kind"]
        table.add_row(*_cells(row, baseline), style=_style(row, baseline))
    console.print(table)
    tasks = [task for task in rows["task"].unique(maintain_order=True) if task != ALL_TASKS]
    if tasks:
        console.print(_by_task(rows, tasks, baseline))
    closes = overall.row(overall.height - 1, named=True)["speedup_static"] - 1
    console.print(
        f"Oracle gap: {closes:+.1%} over {baseline} (tuned on the training prompts). A draft call costs "
        f"{first['marginal_draft_share']:.1%} of a round's rest.\nSeconds: {first['hardware']}."
    )
    if first["speedup_static_low"] is None:
        console.print(f"No intervals: fewer than {MIN_PROMPTS} prompts.")


def _cells(row: dict[str, Any], baseline: str) -> list[str]:
    if row["kind"] == "static":  # what the others are measured by
        row = row | {"oracle_gap_closed": None}
    if row["policy"] == baseline:
        row = row | {"speedup_static_low": None}
    low, high = row["speedup_static_low"], row["speedup_static_high"]
    alone, closed = row["speedup_autoregressive"], row["oracle_gap_closed"]
    return [
        row["policy"] + (" (tuned)" if row["policy"] == baseline else ""),
        f"{row['tokens_per_second']:.1f}",
        "" if alone is None else f"{alone:.2f}",
        f"{row['speedup_static'] - 1:+.1%}",
        "" if low is None else f"{low - 1:+.1%} … {high - 1:+.1%}",
        f"{row['acceptance_length']:.2f}",
        f"{row['draft_calls']:.2f}",
        "" if closed is None else f"{closed:.0%}",
    ]


def _style(row: dict[str, Any], baseline: str) -> str:
    if row["policy"] == baseline:
        return "bold"
    return {"static": "dim", "learned": "green"}.get(row["kind"], "")


def _by_task(rows: pl.DataFrame, tasks: list[str], baseline: str) -> Table:
    table = Table(title=f"tokens/s against {baseline}, by task", title_justify="left")
    table.add_column("policy")
    for task in tasks:
        table.add_column(task, justify="right")
    for policy in rows["policy"].unique(maintain_order=True):
        mine = rows.filter(pl.col("policy") == policy)
        gains = {row["task"]: row["speedup_static"] - 1 for row in mine.iter_rows(named=True)}
        first = mine.row(0, named=True)
        table.add_row(policy, *(f"{gains[task]:+.1%}" for task in tasks), style=_style(first, baseline))
    return table
