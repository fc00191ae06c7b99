"""A sweep's runs: which settings gain, and how much seeds differ."""

from pathlib import Path

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radar_rl.errors import InputError
from radar_rl.evaluation.groups import TRAINING, Group, grouped, spread
from radar_rl.evaluation.report.canvas import COLOURS, INK, SURFACE, WIDE, Picture, panel, percents
from radar_rl.evaluation.report.wording import counted, folded, signed_percent
from radar_rl.offline.results import RESULTS_FILE

MOST = 14  # groups that are shown

# What a table of runs may hold, the best known first: held out from training, or not.
GAINS = {
    "gain": "the prompts that compare measured them on",
    "validation_gain": "validation prompts",
    "training_gain": "their own training prompts",
}


def sweep_picture(folder: str | Path) -> Picture:
    """Gains of a sweep's runs over the tuned static depth, grouped over seeds.

    Args:
        folder: with the ``results.parquet`` of a sweep, or of ``radar-rl compare``.

    Raises:
        InputError: there is no such table, or it has no run with a gain.
    """
    file = Path(folder) / RESULTS_FILE
    try:
        rows = pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"sweep: no table at {file}: expected the out= of train -m or compare ({error})") from error
    missing = [name for name in (*TRAINING, "settings", "algorithm") if name not in rows.columns]
    rows = rows.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    rows = rows.with_columns(pl.col("settings").fill_null("{}"))
    column = next((name for name in GAINS if name in rows.columns and rows[name].count()), None)
    if column is None:
        raise InputError(f"sweep: {file} has no run with a gain; expected the out= of train -m or compare")
    if "measured_hardware" in rows.columns:  # compare has a row for each machine
        rows = rows.filter(pl.col("measured_hardware").eq_missing(pl.lit(rows["measured_hardware"][0])))
    rows = rows.drop_nulls(column)
    groups = sorted(grouped(rows), key=lambda group: -_mean(rows, group, column))
    ahead = int((rows[column] > 0).sum())
    best = groups[0]

    def draw(width: float) -> Figure:
        wide = width == WIDE
        shown = groups[:MOST]
        figure, axes = panel(width, 0.6 + (0.29 if wide else 0.42) * len(shown))
        for place, group in enumerate(shown):
            _dots(axes, place, rows[group.rows][column].to_list())
        axes.axvline(0, color=INK, lw=1.2)
        axes.set_yticks(range(len(shown)), [folded(group.name, 50 if wide else 20, 2) for group in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.12 if wide else 0.22)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        percents(axes.xaxis)
        axes.set_xlabel("tokens/s against the tuned depth")
        return figure

    hidden = f" The {counted(len(groups) - MOST, 'slower setting')} not shown." if len(groups) > MOST else ""
    return Picture(
        "sweep",
        f"{ahead} of {counted(rows.height, 'run')} beat the tuned depth; best: {best.name}, "
        f"{signed_percent(_mean(rows, best, column))}",
        f"A dot is a run, a stroke the mean over seeds. Gains are those on {GAINS[column]}.{hidden}",
        f"Dot chart of the gains of {counted(rows.height, 'run')}. "
        + " ".join(f"{group.name}: {signed_percent(_mean(rows, group, column))}." for group in groups[:MOST]),
        draw,
    )


def _mean(rows: pl.DataFrame, group: Group, column: str) -> float:
    return spread(rows[group.rows][column].to_list())[0]


def _dots(axes: Axes, place: int, gains: list[float]) -> None:
    mean = spread(gains)[0]
    axes.plot(gains, [place] * len(gains), "o", color=COLOURS["learned"], ms=6, mec=SURFACE, mew=0.8, zorder=3)
    if len(gains) > 1:
        axes.plot(mean, place, "|", color=INK, ms=14, mew=1.6, zorder=4)
    axes.annotate(
        signed_percent(mean),
        (max(gains), place),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=INK,
    )
