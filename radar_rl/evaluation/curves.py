"""Learning curves: what more training positions bring."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from radar_rl.evaluation.compare import headline
from radar_rl.evaluation.groups import SETTINGS, grouped
from radar_rl.evaluation.style import plain

# Runs of one line differ in the prompts learned from, and in the seed, over which the mean is taken.
ALIKE = tuple(name for name in SETTINGS if name != "share")

LINES = ("#1f6fb4", "#c4473a", "#2f8f5b", "#8a5ab5", "#b3761d", "#3aa3a8", "#d16ba5", "#6b6f76")


def differing_positions(rows: pl.DataFrame) -> bool:
    """Whether runs, otherwise alike, were trained on different numbers of positions."""
    return not _several(_learned(rows)).is_empty()


def learning_curves(rows: pl.DataFrame, path: Path) -> None:
    """Draw gain over the tuned static depth, and share of the oracle gap closed, against training positions.

    A row of panels for each profile, with the runs trained for it where there are such, a line for each kind of run,
    alike but for the share of the prompts learned from: means over tasks where there are several (over all texts where
    not), and over seeds. Bands are the 95 % intervals over prompts, those of the gap in units of the oracle's gain; a
    dotted line is the best tuned rule's.

    Args:
        rows: of ``evaluation.parquet``: runs with ``positions``, and for the gap the oracle's rows.
        path: the PNG to write.
    """
    learned = _several(_learned(rows))
    machines = learned["hardware"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(11, 0.9 + 3.4 * len(machines)), layout="constrained", dpi=150)
    panels = figure.subplots(len(machines), 2, squeeze=False)
    names = learned.select("line").unique(maintain_order=True)["line"].to_list()
    colours = {name: LINES[i % len(LINES)] for i, name in enumerate(names)}
    for (left, right), machine in zip(panels, machines, strict=True):
        here = learned.filter(pl.col("hardware") == machine)
        others = headline(rows.filter(pl.col("hardware") == machine))
        oracle = others.filter(pl.col("kind") == "oracle")["speedup_static"]
        rule = others.filter(pl.col("kind") == "rule").sort("speedup_static", descending=True).head(1)
        _panel(left, here, colours, 1.0, rule)
        left.set_ylabel(f"tokens/s against {here['baseline'][0]}")
        if len(oracle) and oracle[0] > 1:
            _panel(right, here, colours, oracle[0] - 1, rule)
            right.set_ylabel("share of the oracle gap closed")
        else:
            right.set_visible(False)
        left.set_title(machine, fontsize=9, loc="left")
        for axes in (left, right):
            axes.set_xlabel("training positions")
    shown = {label: line for line, label in zip(*panels[0, 0].get_legend_handles_labels(), strict=True)}
    wide = max(map(len, shown)) > 40
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower left", ncols=1 if wide else 4, fontsize=8, frameon=False
    )
    figure.suptitle("What more training positions bring", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _learned(rows: pl.DataFrame) -> pl.DataFrame:
    """The runs whose positions are known, on the machines that they were trained for; ``line`` says which line's."""
    learned = headline(rows).filter((pl.col("kind") == "learned") & pl.col("positions").is_not_null())
    at_home = pl.col("trained_for").eq_missing(pl.col("hardware"))
    learned = learned.filter(at_home | ~at_home.any().over("hardware"))
    lines = {row: group.name for group in grouped(learned, ALIKE) for row in group.rows}
    named = learned.with_columns(line=pl.Series([lines.get(row) for row in range(learned.height)], dtype=pl.String))
    return named.drop_nulls("line")


def _several(learned: pl.DataFrame) -> pl.DataFrame:
    """The lines of more than one point, in the order of positions."""
    return learned.filter(pl.col("positions").n_unique().over("line", "hardware") > 1).sort("positions")


def _panel(axes: Axes, here: pl.DataFrame, colours: dict[str, str], unit: float, rule: pl.DataFrame) -> None:
    """Gains in some unit against positions."""
    figures = ("speedup_static", "speedup_static_low", "speedup_static_high")
    points = here.group_by("line", "positions", maintain_order=True).agg(pl.col(figures).mean())
    for (line,), own in points.group_by("line", maintain_order=True):
        own = own.sort("positions")
        x = own["positions"].to_numpy()
        middle, low, high = ((own[name].cast(pl.Float64).to_numpy() - 1) / unit for name in figures)
        axes.plot(x, middle, "-o", color=colours[str(line)], ms=4, lw=1.6, label=str(line))
        if np.isfinite(low).all():
            axes.fill_between(x, low, high, color=colours[str(line)], alpha=0.15, lw=0)
    if not rule.is_empty():  # another one on each machine, so the legend of all panels names none
        best: dict[str, Any] = rule.row(0, named=True)
        axes.axhline((best["speedup_static"] - 1) / unit, color="#b3761d", ls=":", lw=1.4, label="best tuned rule")
    axes.axhline(0, color="#2b2d33", lw=0.8)
    axes.set_xscale("log")
    seen = sorted(set(here["positions"]))
    axes.set_xticks(seen, [f"{count:,}" for count in seen], rotation=30 if len(seen) > 4 else 0, fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    plain(axes)
