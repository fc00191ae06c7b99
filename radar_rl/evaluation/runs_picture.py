"""Sweeps as a picture: the gain of each group over its seeds, and how they learned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from radar_rl.evaluation.groups import Group, grouped, spread
from radar_rl.evaluation.style import plain
from radar_rl.offline.run import CURVE_FILE

# Okabe and Ito's colours, which the colour-blind tell apart; further groups begin again, darker and with another dash.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5a5a5a")
DARKER = 0.55
DASHES = ("-", "--", ":", "-.")


def _style(place: int) -> tuple[str, str]:
    """Colour and dash of the group at a place of the order."""
    turn, colour = divmod(place, len(COLOURS))
    red, green, blue = (part * DARKER**turn for part in to_rgb(COLOURS[colour]))
    return to_hex((red, green, blue)), DASHES[turn % len(DASHES)]


def draw_runs(rows: pl.DataFrame, folders: Sequence[Path], path: Path) -> None:
    """Draw the gain over the tuned static depth, a panel for each profile measured with, and the learning curves.

    Args:
        rows: as ``compare`` makes them, the runs of each profile in the order of ``folders``.
        folders: of the runs.
        path: the PNG to write.
    """
    names = rows["measured_hardware"].unique(maintain_order=True).to_list()
    panels = [rows.filter(pl.col("measured_hardware").eq_missing(name)) for name in names]
    groups = grouped(panels[0])
    order = sorted(range(len(groups)), key=lambda i: -_mean_gain(panels[0], groups[i]))
    height = max(3.6, 1.6 + 0.34 * len(groups))
    figure = Figure(figsize=(4.6 + 4.2 * len(panels), height), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(panels) + 1, width_ratios=[1] * len(panels) + [1.15], squeeze=False)[0]
    for place, (panel, some) in enumerate(zip(axes[:-1], panels, strict=True)):
        _gains(panel, some, [groups[i] for i in order], labelled=place == 0)
    _curves(axes[-1], folders, [groups[i] for i in order])
    figure.suptitle(f"{len(folders)} runs, grouped over seeds", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _mean_gain(rows: pl.DataFrame, group: Group) -> float:
    gains = rows[group.rows]["gain"].drop_nulls().to_list()
    return spread(gains)[0] if gains else -np.inf


def _gains(axes: Axes, rows: pl.DataFrame, groups: Sequence[Group], *, labelled: bool) -> None:
    for place, group in enumerate(groups):
        gains = rows[group.rows]["gain"].drop_nulls().to_list()
        if not gains:
            continue
        mean, deviation = spread(gains)
        colour, _ = _style(place)
        axes.plot([mean - deviation, mean + deviation], [place, place], color=colour, lw=5, alpha=0.3, zorder=2)
        axes.plot(gains, [place] * len(gains), "o", color=colour, ms=4, mec="white", mew=0.5, alpha=0.85, zorder=3)
        axes.plot(mean, place, "|", color="black", ms=13, mew=1.6, zorder=4)
        note = f"{mean:+.1%}"
        axes.annotate(
            note,
            (max(*gains, mean + deviation), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(0, color="#2b2d33", lw=1)
    axes.set_yticks(range(len(groups)), [group.name for group in groups] if labelled else [""] * len(groups))
    axes.tick_params(axis="y", labelsize=8)
    for place, label in enumerate(axes.get_yticklabels()):  # the legend of the curves too
        label.set_color(_style(place)[0])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.3g}%" if value else "0%"))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.18)
    first = rows.row(0, named=True)
    axes.set_xlabel(f"tokens per second against tuned static depth\n{first['measured_on']}; mark and bar: mean ± std")
    axes.xaxis.label.set_fontsize(8)
    if first["measured_hardware"]:
        axes.set_title(first["measured_hardware"], fontsize=9)
    plain(axes, "x")


def _curves(axes: Axes, folders: Sequence[Path], groups: Sequence[Group]) -> None:
    for place, group in enumerate(groups):
        curves = [curve for i in group.rows if (curve := _curve(folders[i])) is not None]
        if not curves:
            continue
        table = (
            pl.concat(curves)
            .group_by("step")
            .agg(
                pl.col("tokens_per_second").mean().alias("mean"),
                pl.col("tokens_per_second").min().alias("low"),
                pl.col("tokens_per_second").max().alias("high"),
            )
        )
        table = table.sort("step")
        colour, dash = _style(place)
        step = table["step"].to_numpy()
        axes.fill_between(step, table["low"].to_numpy(), table["high"].to_numpy(), color=colour, alpha=0.15, lw=0)
        axes.plot(step, table["mean"].to_numpy(), dash, color=colour, lw=1.4)
    axes.set_xlabel("updates", fontsize=8)
    axes.set_ylabel("tokens per second, training prompts\nmean over seeds, lowest to highest", fontsize=8)
    plain(axes, "x")


def _curve(folder: Path) -> pl.DataFrame | None:
    """A run's throughput over its training; None if nothing measured it (rollouts)."""
    file = folder / CURVE_FILE
    curve = pl.read_parquet(file) if file.is_file() else pl.DataFrame()
    wanted = ("step", "tokens_per_second")
    return curve.select(pl.col(name).cast(pl.Float64) for name in wanted) if set(wanted) <= set(curve.columns) else None
