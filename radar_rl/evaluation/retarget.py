"""Retargeting: runs trained for one machine, run on others; a trace is collected once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from radar_rl.evaluation.compare import MEAN_OF_TASKS, headline
from radar_rl.evaluation.groups import SETTINGS, grouped
from radar_rl.evaluation.tables import told_wide


@dataclass(frozen=True)
class Retargeting:
    """Gains of runs of one algorithm over the tuned static depth of the machine that they run on.

    Attributes:
        label: what the runs are.
        trained_for: names of M profiles.
        run_on: names of H profiles.
        baselines: of each of ``run_on``, the static depth tuned for it.
        gains: [M, H] float64, tokens per second against the baseline − 1: a mean over tasks, where there are several,
            and over seeds.
    """

    label: str
    trained_for: tuple[str, ...]
    run_on: tuple[str, ...]
    baselines: tuple[str, ...]
    gains: NDArray[np.float64]


def retargetings(rows: pl.DataFrame) -> list[Retargeting]:
    """The matrices of an evaluation: one for each kind of run, alike but for the machine, trained for several of them.

    Args:
        rows: what ``comparison`` returned, of all profiles.
    """
    machines = rows["hardware"].unique(maintain_order=True).to_list()
    overall = headline(rows)
    learned = overall.filter((pl.col("kind") == "learned") & pl.col("trained_for").is_in(machines))
    baselines = dict(overall.select("hardware", "baseline").unique().iter_rows())
    matrices = []
    for alike in grouped(learned, SETTINGS):  # runs that differ in the machine, and in the seed
        group = learned[alike.rows]
        if group["trained_for"].n_unique() < 2:
            continue
        trained_for = [name for name in machines if name in set(group["trained_for"])]
        cells = group.group_by("trained_for", "hardware").agg(pl.col("speedup_static").mean() - 1)
        gains = {(trained, on): gain for trained, on, gain in cells.iter_rows()}
        matrices.append(
            Retargeting(
                _label(alike.name, group),
                tuple(trained_for),
                tuple(machines),
                tuple(baselines[name] for name in machines),
                np.array([[gains[trained, on] for on in machines] for trained in trained_for]),
            )
        )
    return matrices


def _label(name: str, group: pl.DataFrame) -> str:
    """What the runs of a group are, and what the mean is over."""
    seeds = group["seed"].n_unique()
    over = ["tasks"] if group["task"][0] == MEAN_OF_TASKS else []
    over += [f"{seeds} seeds"] if seeds > 1 else []
    return name + (f", mean over {' and '.join(over)}" if over else "")


def print_retargeting(matrices: Sequence[Retargeting], console: Console | None = None) -> None:
    """Print the matrices, a row for what runs were trained for and a column for what they run on.

    Args:
        matrices: what ``retargetings`` returned.
        console: where to; standard output by default.
    """
    console = told_wide(console)
    for matrix in matrices:
        title = f"{matrix.label}: trained for one machine (rows), run on another (columns), against its tuned static"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        table.add_column("trained for")
        for name, baseline in zip(matrix.run_on, matrix.baselines, strict=True):
            table.add_column(f"{name}\nvs {baseline}", justify="right")
        for name, gains in zip(matrix.trained_for, matrix.gains, strict=True):
            own = [
                f"[bold]{gain:+.1%}[/]" if on == name else f"{gain:+.1%}"
                for on, gain in zip(matrix.run_on, gains, strict=True)
            ]
            table.add_row(name, *own)
        console.print(table)


def draw_retargeting(matrices: Sequence[Retargeting], path: Path) -> None:
    """Draw the matrices as heat maps on one scale.

    Args:
        matrices: what ``retargetings`` returned.
        path: the PNG to write.
    """
    wide = 2.2 + 1.5 * len(matrices[0].run_on)
    high = [1.5 + 0.55 * len(matrix.trained_for) for matrix in matrices]
    figure = Figure(figsize=(wide + 1.6, sum(high) + 0.9), layout="constrained", dpi=150)
    panels = figure.subplots(len(matrices), 1, squeeze=False, height_ratios=high)[:, 0]
    limit = 1.2 * max(0.01, *(float(np.abs(matrix.gains).max()) for matrix in matrices))
    for axes, matrix in zip(panels, matrices, strict=True):
        axes.imshow(matrix.gains, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for row, trained in enumerate(matrix.trained_for):
            for column, on in enumerate(matrix.run_on):
                gain = float(matrix.gains[row, column])
                axes.text(
                    column,
                    row,
                    f"{gain:+.1%}",
                    ha="center",
                    va="center",
                    fontsize=10,
                    fontweight="bold" if trained == on else "normal",
                    color="white" if abs(gain) > 0.55 * limit else "#2b2d33",
                )
        labels = [f"{_folded(name)}\nvs {base}" for name, base in zip(matrix.run_on, matrix.baselines, strict=True)]
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_yticks(range(len(matrix.trained_for)), [_folded(name) for name in matrix.trained_for], fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(matrix.label, fontsize=9, loc="left")
        axes.set_ylabel("trained for", fontsize=9)
    panels[-1].set_xlabel("run on: tokens per second against the static depth tuned for it", fontsize=9)
    figure.suptitle("Retargeting from one trace", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _folded(name: str, width: int = 22) -> str:
    """A name in lines of about ``width`` characters."""
    lines = [""]
    for word in name.split():
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [lines[-1], word]
    return "\n".join(line for line in lines if line)
