"""``bench banditspec`` as a picture: throughput against speculation length, bandits as level lines beside it."""

from pathlib import Path

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from radar_rl.benchmarks.banditspec_figures import ARM, BANDIT
from radar_rl.benchmarks.banditspec_tables import called
from radar_rl.evaluation.style import plain

COLOURS = ("#1f6fb4", "#b3761d", "#3d8f5f", "#8a4f9e", "#b0343c", "#6b7079", "#2b2d33")


def draw_throughput(found: pl.DataFrame, title: str, path: Path) -> None:
    """Draw the figures: a panel per target, a line per batch size.

    Args:
        found: of ``banditspec_figures.figures``.
        title: pair and machine.
        path: the PNG to write.
    """
    targets = found["target"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(1.5 + 4.9 * len(targets), 4.8), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    sizes = found["batch"].unique(maintain_order=True).to_list()
    colours = {size: COLOURS[number % len(COLOURS)] for number, size in enumerate(sizes)}
    for axes, target in zip(panels, targets, strict=True):
        _panel(axes, found.filter(pl.col("target") == target), colours)
        axes.set_title(target, fontsize=10, loc="left")
    panels[0].set_ylabel("throughput over the target alone")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle(f"Speculation length by batch size · {title}", fontsize=11, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _panel(axes: Axes, of_target: pl.DataFrame, colours: dict[int, str]) -> None:
    """Arms as points on lines, the target alone as γ = 0; right of them each bandit, level with what it equals."""
    bandits = of_target.filter(pl.col("kind") == BANDIT)["policy"].unique(maintain_order=True).to_list()
    lengths = of_target.filter(pl.col("kind") == ARM)["policy"].n_unique()
    for (batch,), here in of_target.group_by("batch", maintain_order=True):
        arms = here.filter(pl.col("kind") == ARM)["improvement"].to_list()
        colour = colours[int(str(batch))]
        axes.plot(range(lengths + 1), [1.0, *arms], "-o", color=colour, ms=4, lw=1.6, label=f"batch {batch}")
        levels = dict(here.filter(pl.col("kind") == BANDIT).select("policy", "improvement").iter_rows())
        for place, bandit in enumerate(bandits, start=lengths + 1):
            axes.plot([0, place + 0.35], [levels[bandit]] * 2, color=colour, lw=0.6, alpha=0.3, zorder=0)
            axes.plot([place - 0.35, place + 0.35], [levels[bandit]] * 2, color=colour, lw=2.4)
    axes.axvline(lengths + 0.5, color="#2b2d33", lw=0.8)
    axes.axhline(1, color="#2b2d33", lw=0.8, zorder=0)
    names = [*map(str, range(lengths + 1)), *map(called, bandits)]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("speculation length γ, and bandits over it")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2f}×"))
    plain(axes)
