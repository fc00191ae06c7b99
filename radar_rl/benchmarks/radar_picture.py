"""``bench radar`` as a picture: speedups by task beside the paper's, and live tokens/s beside replayed ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radar_rl.benchmarks.live import ALONE
from radar_rl.benchmarks.radar_figures import ORACLE
from radar_rl.benchmarks.radar_tables import COLUMN_OF, paper_number
from radar_rl.evaluation.compare import ALL_TASKS
from radar_rl.evaluation.style import plain

COLOURS = {
    ALONE: "#2b2d33",
    "EAGLE-2": "#d5d8dd",
    "EAGLE-3": "#a4a9b2",
    "RADAR": "#b3761d",
    "RADAR's weights": "#dcb982",
    "tuned static": "#6b7079",
    "ours": "#1f6fb4",
    ORACLE: "#2b2d33",
}


def draw_contest(
    rows: pl.DataFrame, shown: Mapping[str, str], numbers: Mapping[str, Any], paper: str, title: str, path: Path
) -> None:
    """Draw the figures.

    Args:
        rows: of ``radar_figures.figures``.
        shown: how tables call policies, in their order.
        numbers: of ``published("radar")``.
        paper: the target whose numbers stand beside.
        title: pair and texts.
        path: the PNG to write.
    """
    figure = Figure(figsize=(12, 5), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _speedups(left, rows, {**shown, ORACLE: "oracle (replayed)"}, numbers, paper)
    _live_and_replayed(right, rows, shown)
    figure.suptitle(f"RADAR's table anew · {title}", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _speedups(axes: Axes, rows: pl.DataFrame, shown: Mapping[str, str], numbers: Mapping[str, Any], paper: str) -> None:
    """Bars: a group for each task, a bar for each policy, the paper's number as a diamond above it."""
    found = {(row["policy"], row["task"]): row for row in rows.iter_rows(named=True)}
    tasks = [task for task in rows["task"].unique(maintain_order=True) if task != ALL_TASKS]
    width = 0.84 / len(shown)
    theirs: list[tuple[float, float]] = []
    for number, (policy, name) in enumerate(shown.items()):
        places = [group - 0.42 + (number + 0.5) * width for group in range(len(tasks))]
        kind = "speedup_replayed" if policy == ORACLE else "speedup"
        heights = [found[policy, task][kind] or 0.0 for task in tasks]
        hollow = {"fill": False, "edgecolor": COLOURS[policy], "linewidth": 1.0, "linestyle": "--"}
        filled = {"color": COLOURS[policy]}
        axes.bar(places, heights, width * 0.9, label=name, **(hollow if policy == ORACLE else filled))
        for place, task in zip(places, tasks, strict=True):
            value = paper_number(numbers, paper, "speedup", policy, task)
            if value is not None:
                theirs.append((place, value))
    if theirs:
        axes.plot(*zip(*theirs, strict=True), "D", ms=5, mfc="white", mec="#b0343c", label=f"the paper's, {paper}")
    axes.axhline(1, color="#2b2d33", lw=0.8)
    beside = [f"{task}\n(paper: {COLUMN_OF[task]})" if task in COLUMN_OF else task for task in tasks]
    axes.set_xticks(range(len(tasks)), beside)
    axes.set_ylabel("speedup over autoregressive decoding, live")
    highest = max([value for _, value in theirs] + [row["speedup"] or 0.0 for row in found.values()])
    axes.set_ylim(0, 1.4 * highest)
    plain(axes, "y")
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper left")


def _live_and_replayed(axes: Axes, rows: pl.DataFrame, shown: Mapping[str, str]) -> None:
    """A line for each policy from live tokens/s to replayed ones."""
    overall = rows.filter(pl.col("task") == ALL_TASKS)
    found = {row["policy"]: row for row in overall.iter_rows(named=True)}
    names = {ALONE: "autoregressive", **shown, ORACLE: "oracle"}
    for height, policy in enumerate(names):
        live, replayed = found[policy]["tokens_per_second"], found[policy]["tokens_per_second_replayed"]
        colour = COLOURS[policy] if policy != "EAGLE-2" else COLOURS["EAGLE-3"]
        if live is not None and replayed is not None:
            axes.plot([live, replayed], [height, height], color=colour, lw=1.5, zorder=1)
            axes.annotate(
                f"{found[policy]['replay_error']:+.1%}",
                (max(live, replayed), height),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        if live is not None:
            axes.plot(live, height, "o", ms=7, color=colour)
        if replayed is not None:
            axes.plot(replayed, height, "o", ms=7, mfc="white", mec=colour, mew=1.5)
    axes.plot([], [], "o", ms=7, color="#6b7079", label="live")
    axes.plot([], [], "o", ms=7, mfc="white", mec="#6b7079", mew=1.5, label="replayed with the profile")
    axes.set_yticks(range(len(names)), list(names.values()), fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("tokens per second, all texts")
    plain(axes, "x")
    axes.legend(fontsize=8, frameon=False, loc="lower left")
