"""Off-policy estimates beside the truth, as a table on the terminal and as a picture."""

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from radar_rl.evaluation.agreement import MIN_POLICIES, Agreement
from radar_rl.evaluation.style import plain
from radar_rl.evaluation.tables import told_wide

# From so many policies on, the better half of them is looked at by itself.
MANY_POLICIES = 2 * MIN_POLICIES

COLOURS = ("#1f6fb4", "#c4473a", "#2f8f5b", "#8a5ab5", "#3aa3a8", "#d16ba5", "#6b6f76")
RULE = "#b3761d"

# In points: about the size of a panel, the room of a number, and where it may stand beside its point, best first.
PANEL = (250.0, 210.0)
NUMBER = (8.0, 7.0)
SIDES = ((9.0, -5.0), (-9.0, 5.0), (9.0, 5.0), (-9.0, -5.0), (0.0, 9.0), (0.0, -9.0))
PLACES = [(far * x, far * y) for far in (1.0, 1.8, 2.6) for x, y in SIDES]


def parts(rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame, Agreement]]:
    """The rows on training texts, then on held-out ones, from the best policy to the worst, and their agreement."""
    found = []
    for (texts,), own in rows.group_by("texts", maintain_order=True):
        own = own.sort("exact", descending=True, maintain_order=True)
        found.append((str(texts), own, _agreement(own)))
    return found


def _agreement(own: pl.DataFrame) -> Agreement:
    return Agreement.of(own["exact"].to_list(), own["estimate"].to_list())


def better_half(own: pl.DataFrame) -> pl.DataFrame:
    """The better half of some policies, ties of the last one included: those that anyone would choose between.

    Ranks over all of them flatter an estimator: a depth that nobody would run is far from the rest.
    """
    return own.filter(pl.col("exact") >= own["exact"].sort(descending=True)[(len(own) - 1) // 2])


def print_ope(rows: pl.DataFrame, console: Console | None = None) -> None:
    """Print values, estimates and their agreement.

    Args:
        rows: of ``ope.parquet``.
        console: where to; standard output by default.
    """
    console = told_wide(console)
    first = rows.row(0, named=True)
    unit = "text" if first["estimator_episode"] == "sequence" else "round"
    for texts, own, agreement in parts(rows):
        table = Table(
            title=f"Value in tokens per {unit}, {own['starts'][0]} starts of {texts} texts",
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.add_column("policy", overflow="fold")
        table.add_column("algorithm")
        throughputs = ("tokens_per_second", "estimated_tokens_per_second") if unit == "text" else ()
        for column in ("exact", "estimate", "error", *("tokens/s", "estimated")[: len(throughputs)]):
            table.add_column(column, justify="right", no_wrap=True)
        for row in own.iter_rows(named=True):
            speeds = [row[name] for name in throughputs]
            table.add_row(
                row["policy"],
                row["algorithm"] or "rule",
                *(f"{row[name]:+.3f}" for name in ("exact", "estimate", "error")),
                *("" if speed is None else f"{speed:.1f}" for speed in speeds),
            )
        console.print(table)
        console.print(f"All: {agreement_words(agreement)}.")
        if len(own) >= MANY_POLICIES:
            console.print(f"The better half: {agreement_words(_agreement(better_half(own)))}.")
    console.print(
        f"Fitted Q evaluation on {first['estimator_behaviour']} decisions, rewards "
        f"{'shaped' if first['shaped'] else 'plain'}; a value is emitted − λ · seconds, λ = {first['rate']:.1f} "
        f"tokens/s.\nSeconds: {first['hardware']}."
    )


def agreement_words(agreement: Agreement) -> str:
    """An agreement in a line."""
    if agreement.policies < MIN_POLICIES:
        ranks = f"{agreement.policies} policies: fewer than {MIN_POLICIES} have no rank correlation"
    elif agreement.spearman is None or agreement.kendall is None:
        ranks = f"{agreement.policies} policies of one value: no rank correlation"
    else:
        ranks = f"Spearman ρ {agreement.spearman:.2f}, Kendall τ {agreement.kendall:.2f} (n = {agreement.policies})"
    return (
        f"{ranks}; mean |error| {agreement.absolute_error:.3g}, without the common {agreement.mean_error:+.3g} "
        f"{agreement.spread_error:.3g}; regret@1 {agreement.regret:.3g}"
    )


def draw_ope(rows: pl.DataFrame, path: Path) -> None:
    """Draw estimates against exact values: on training texts and on held-out ones, below for the better half alone.

    Points are numbered from the best policy on the training texts to the worst; the list beside the panels names them.

    Args:
        rows: of ``ope.parquet``.
        path: the PNG to write.
    """
    found = parts(rows)
    first = rows.row(0, named=True)
    names = found[0][1]["policy"].to_list()
    colours = _colours(found[0][1])
    height = 2 if len(names) >= MANY_POLICIES else 1
    size = (4.9 * len(found) + 2.6, max(0.6 + 4.4 * height, 1.4 + 0.2 * len(names)))
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    panels = figure.subplots(height, len(found), squeeze=False)
    for column, (texts, own, agreement) in enumerate(found):
        _panel(panels[0, column], own, names, colours)
        about = f"{texts} texts ({own['starts'][0]} starts)"
        panels[0, column].set_title(f"{about}\n{_title(agreement)}", fontsize=9, loc="left")
        if height > 1:
            better = better_half(own)
            _panel(panels[1, column], better, names, colours)
            panels[1, column].set_title(f"the better half\n{_title(_agreement(better))}", fontsize=9, loc="left")
    unit = "text" if first["estimator_episode"] == "sequence" else "round"
    for axes in panels[:, 0]:
        axes.set_ylabel(f"estimate, tokens per {unit}")
    figure.supxlabel(
        f"exact value, tokens per {unit} · emitted − λ · seconds at λ = {first['rate']:.1f} tokens/s · seconds: "
        f"{first['hardware']} · {first['estimator_behaviour']} decisions, rewards "
        f"{'shaped' if first['shaped'] else 'plain'}",
        fontsize=8,
        color="#555555",
    )
    marks = [_mark(colours[name]) for name in names]
    listed = [f"{number}  {name}" for number, name in enumerate(names, start=1)]
    figure.legend(marks, listed, loc="outside right upper", fontsize=7.5, frameon=False, handletextpad=0.2)
    figure.suptitle("Fitted Q evaluation against the truth", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _title(agreement: Agreement) -> str:
    """The agreement in two short lines."""
    if agreement.spearman is None or agreement.kendall is None:
        ranks = f"no rank correlation (n = {agreement.policies})"
    else:
        ranks = f"Spearman ρ {agreement.spearman:.2f}, Kendall τ {agreement.kendall:.2f}, n = {agreement.policies}"
    return f"{ranks}\nmean |error| {agreement.absolute_error:.3g}, regret@1 {agreement.regret:.3g}"


def _colours(own: pl.DataFrame) -> dict[str, str]:
    """A colour for each policy: its algorithm's, or the rules'."""
    algorithms = sorted({name for name in own["algorithm"] if name})
    of = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(algorithms)}
    return {row["policy"]: of.get(row["algorithm"], RULE) for row in own.iter_rows(named=True)}


def _mark(colour: str) -> Line2D:
    """A point as the list of names shows it."""
    return Line2D([], [], ls="", marker="o", ms=6, mfc=colour, mec="white")


def number_places(points: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Where each point's number stands, from the point: clear of the other points and of the numbers before it.

    Args:
        points: [P, 2], in points (1/72 inch).

    Returns:
        P offsets in points; of a crowd, the last ones are as they come.
    """
    taken = list(points)
    places = []
    for point in points:
        free = (place for place in PLACES if not (np.abs(point + place - np.array(taken)) < NUMBER).all(axis=1).any())
        place = next(free, PLACES[0])
        taken.append(point + place)
        places.append(place)
    return places


def _panel(axes: Axes, own: pl.DataFrame, names: list[str], colours: dict[str, str]) -> None:
    """Estimates against exact values, the diagonal, and the diagonal moved by what all estimates have in common."""
    exact, estimates = own["exact"].to_numpy(), own["estimate"].to_numpy()
    low, high = float(exact.min()), float(exact.max())
    room = 0.08 * ((high - low) or 1.0)
    ends = np.array([low - room, high + room])
    common = float((estimates - exact).mean())
    axes.plot(ends, ends, color="#2b2d33", lw=1, label="estimate = exact", zorder=1)
    axes.plot(ends, ends + common, color="#8a8f98", lw=1, ls=":", label=f"{common:+.3g}, the mean error", zorder=1)
    spans = np.array([ends[1] - ends[0], max(estimates.max(), ends[1]) - min(estimates.min(), ends[0])])
    away = number_places(np.stack([exact, estimates], axis=1) / spans * PANEL)
    for place, row in zip(away, own.iter_rows(named=True), strict=True):
        point = (row["exact"], row["estimate"])
        axes.plot(*point, "o", ms=7, mfc=colours[row["policy"]], mec="white", mew=0.8, zorder=3)
        number = str(names.index(row["policy"]) + 1)
        axes.annotate(
            number, point, xytext=place, textcoords="offset points", ha="center", va="center", fontsize=7.5, zorder=4
        )
    axes.set_xlim(float(ends[0]), float(ends[1]))
    plain(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
