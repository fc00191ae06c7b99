"""Tokens a round by stopping depth: what drafting deeper brings, and where policies stand beside it."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radar_rl.evaluation.compare import ALL_TASKS, MEAN_OF_TASKS
from radar_rl.evaluation.report.canvas import COLOURS, INK, LINE, MUTED, SURFACE, WIDE, Picture, apart, panel, patch
from radar_rl.evaluation.report.evaluated import Row, name_of, of_kind, the

MOST_TASKS = 12  # lines that can be told apart


def accepted_picture(rows: pl.DataFrame, judged: Sequence[Row], best: Row) -> Picture:
    """Tokens a round (τ) by stopping depth, a line for each task.

    Args:
        rows: of the evaluation, of one machine: where rounds stop at a fixed depth does not depend on it.
        judged: the rows of that machine by which policies are judged.
        best: the policy that the page is about.
    """
    fixed = _by_depth(judged)
    statics = rows.filter((pl.col("kind") == "static") & ~pl.col("task").is_in([ALL_TASKS, MEAN_OF_TASKS]))
    tasks = {task: _by_depth(own.to_dicts()) for (task,), own in statics.group_by("task", maintain_order=True)}
    shown = dict(sorted(tasks.items(), key=lambda item: -item[1][-1])[:MOST_TASKS])
    oracle = the(judged, "oracle")

    def draw(width: float) -> Figure:
        figure, axes = panel(width, 3.7 if width == WIDE else 3.5)
        _lines(axes, {str(task): values for task, values in shown.items()}, fixed, width)
        for row, name in ((oracle, "oracle"), (best, name_of(best, judged))):
            _point(axes, row, name)
        axes.set_xlabel("draft calls a round")
        axes.set_ylabel("tokens a round (τ)")
        axes.set_xticks(range(1, len(fixed) + 1))
        axes.grid(axis="y")
        return figure

    calls = len(fixed)
    title = f"A round brings {fixed[0]:.1f} tokens after one draft call, {fixed[-1]:.1f} after {calls}"
    last = f"the last call adds {fixed[-1] - fixed[-2]:.2f}, the first {fixed[0] - 1:.2f}" if calls > 1 else ""
    lines = "Thin lines are tasks, the thick one their mean." if shown else "The line is the mean over all texts."
    return Picture(
        "accepted",
        f"{title}: {last}" if last else title,
        f"{lines} The diamond and the star lie above it: for as many draft calls a round, "
        "who chooses where to stop gets more tokens than any fixed depth."
        if _above(fixed, best) and _above(fixed, oracle)
        else f"{lines} The diamond is {name_of(best, judged)}, the star the clairvoyant oracle.",
        f"Line chart of tokens a round against draft calls a round. Mean: "
        f"{', '.join(f'{value:.2f} at {depth}' for depth, value in enumerate(fixed, 1))}. "
        f"{name_of(best, judged)}: {best['acceptance_length']:.2f} tokens with {best['draft_calls']:.2f} calls; "
        f"oracle: {oracle['acceptance_length']:.2f} with {oracle['draft_calls']:.2f}.",
        draw,
    )


def _by_depth(rows: Sequence[Row]) -> list[float]:
    return [row["acceptance_length"] for row in sorted(of_kind(rows, "static"), key=lambda row: row["draft_calls"])]


def _above(fixed: Sequence[float], row: Row) -> bool:
    """Whether a policy gets more tokens a round than the fixed depths between which its draft calls lie."""
    low = min(max(int(row["draft_calls"]), 1), max(len(fixed) - 1, 1))
    if len(fixed) < 2:
        return False
    share = row["draft_calls"] - low
    return bool(row["acceptance_length"] > fixed[low - 1] * (1 - share) + fixed[low] * share)


def _lines(axes: Axes, tasks: dict[str, list[float]], fixed: list[float], width: float) -> None:
    depths = range(1, len(fixed) + 1)
    for values in tasks.values():
        axes.plot(depths, values, color=LINE, lw=1)
    axes.plot(depths, fixed, "-o", color=INK, lw=2, ms=4)
    ends = {"mean" if tasks else "all texts": fixed[-1]} | {task: values[-1] for task, values in tasks.items()}
    axes.margins(y=0.09)
    low, high = axes.get_ylim()
    places = apart(list(ends.values()), 0.062 * (high - low))
    for place, (name, end), first in zip(places, ends.items(), [True, *[False] * len(tasks)], strict=True):
        at = len(fixed) + (0.25 if width == WIDE else 0.35)
        if abs(place - end) > 0.02 * (high - low):
            axes.plot([len(fixed) + 0.04, at - 0.04], [end, place], color=LINE, lw=0.6, clip_on=False)
        axes.annotate(
            name,
            (at, place),
            va="center",
            fontsize=8.5,
            color=INK if first else MUTED,
            fontweight="bold" if first else "normal",
            annotation_clip=False,
        )


def _point(axes: Axes, row: Row, name: str) -> None:
    place, colour = (row["draft_calls"], row["acceptance_length"]), COLOURS[row["kind"]]
    marker, size = ("*", 13) if row["kind"] == "oracle" else ("D", 7)
    axes.plot(*place, marker, color=colour, ms=size, mec=SURFACE, mew=0.8, zorder=7)
    axes.annotate(
        name,
        place,
        xytext=(-9, 3) if row["kind"] == "oracle" else (0, 8),
        textcoords="offset points",
        ha="right" if row["kind"] == "oracle" else "center",
        va="center" if row["kind"] == "oracle" else "bottom",
        fontsize=9,
        fontweight="bold",
        color=colour,
        zorder=6,
        bbox=patch(),
    )
