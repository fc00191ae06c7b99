"""The figures of ``bench hybrid`` as tables and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from radar_rl.benchmarks.live import ALONE
from radar_rl.benchmarks.published import published
from radar_rl.benchmarks.ratios import check_timed, ratio, shown
from radar_rl.evaluation.statistics import speedup_interval
from radar_rl.evaluation.style import COLOURS as KINDS
from radar_rl.evaluation.style import INK, plain
from radar_rl.speculative.text import DRAFT_SOURCES

ALL_TASKS = "all"
CALLED = {"head": "head", "ngram": "n-gram", "hybrid": "hybrid"}
COLOURS = {"head": KINDS["learned"], "ngram": KINDS["static"], "hybrid": KINDS["rule"]}


def figures(rows: pl.DataFrame, resamples: int, seed: int) -> list[dict[str, Any]]:
    """By task, and over all of them where there are several: what each source came to.

    Args:
        rows: of ``live.decode_all``, whose ``policy`` is a draft source or the target alone.
        resamples, seed: of the bootstrap over prompts.

    Returns:
        ``task``, ``prompts``; by source ``tau``, ``nodes`` a round, ``draft_calls`` a round and ``tokens_per_second``
        (prefill not counted; the target's too); ``ratio``, τ of the hybrid over the head's, and its 95 % interval
        ``low`` … ``high``, None for few prompts; of ``texts``, how many are the ``same_text`` as the target's alone. Of
        a task whose texts all end with their first token every share is None.

    Raises:
        InputError: that is so for all tasks.
    """
    check_timed(rows)
    own = rows.filter(pl.col("policy") == ALONE).select("text", pl.col("digest").alias("own"))
    rows = rows.join(own, on="text")
    tasks: list[str] = rows["task"].unique(maintain_order=True).to_list()
    return [_figures(task, rows.filter(pl.col("task") == task), resamples, seed) for task in tasks] + (
        [_figures(ALL_TASKS, rows, resamples, seed)] if len(tasks) > 1 else []
    )


def _figures(task: str, rows: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    ordered = rows.sort("text")
    of = {name: ordered.filter(pl.col("policy") == name) for name in (ALONE, *DRAFT_SOURCES)}
    tau = {source: _share(of[source], "tokens", "rounds") for source in DRAFT_SOURCES}
    interval = speedup_interval(_values(of["hybrid"], "rounds"), _values(of["head"], "rounds"), resamples, seed)
    drafted = rows.filter(pl.col("policy") != ALONE)
    return {
        "task": task,
        "prompts": of["head"].height,
        "tau": tau,
        "ratio": ratio(tau["hybrid"], tau["head"]),
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "nodes": {source: _share(of[source], "nodes", "rounds") for source in DRAFT_SOURCES},
        "draft_calls": {source: _share(of[source], "draft_calls", "rounds") for source in DRAFT_SOURCES},
        "tokens_per_second": {name: _share(some, "tokens", "seconds") for name, some in of.items()},
        "texts": drafted.height,
        "same_text": drafted.filter(pl.col("digest") == pl.col("own")).height,
    }


def _values(rows: pl.DataFrame, column: str) -> NDArray[np.float64]:
    return rows[column].to_numpy().astype(np.float64)


def _share(rows: pl.DataFrame, column: str, over: str) -> float | None:
    """Σ column / Σ over."""
    return ratio(float(_values(rows, column).sum()), float(_values(rows, over).sum()))


def tables(told: Sequence[Mapping[str, Any]], title: str, theirs: float) -> list[Table]:
    """τ of each source by task, with the hybrid's over the head's beside the published ratio; tokens/s.

    Args:
        told: what ``figures`` returned.
        title: pair and drafting.
        theirs: the published ratio, over all its prompts.
    """
    lengths = Table(title=f"τ, tokens emitted per verification: {title}", title_justify="left")
    speeds = Table(title="tokens/s live, prefill not counted (× the target alone)", title_justify="left")
    lengths.add_column("task")
    lengths.add_column("prompts", justify="right")
    speeds.add_column("task")
    speeds.add_column("target alone", justify="right")
    for source in DRAFT_SOURCES:
        lengths.add_column(CALLED[source], justify="right")
        speeds.add_column(CALLED[source], justify="right", no_wrap=True)
    for column in ("hybrid / head", "95 % interval", "published"):
        lengths.add_column(column, justify="right", no_wrap=True)
    for row in told:
        last = row is told[-1]
        if last and len(told) > 1:
            lengths.add_section()
            speeds.add_section()
        lengths.add_row(
            row["task"],
            str(row["prompts"]),
            *(shown("{:.2f}", row["tau"][source]) for source in DRAFT_SOURCES),
            shown("{:.2f}×", row["ratio"]),
            shown("{:.2f} … {:.2f}", row["low"], row["high"]),
            f"{theirs:.3f}×" if last else "",
        )
        speed = row["tokens_per_second"]
        speeds.add_row(
            row["task"],
            shown("{:.0f}", speed[ALONE]),
            *(shown("{:.0f} ({:.2f}×)", speed[source], ratio(speed[source], speed[ALONE])) for source in DRAFT_SOURCES),
        )
    return [lengths, speeds]


def draw(told: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw τ by task and source, and the hybrid's over the head's beside the published ratio.

    Args:
        told: what ``figures`` returned.
        title: pair and drafting.
        path: the PNG to write.
    """
    figure = Figure(figsize=(9.5, 2.0 + 0.62 * len(told)), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1), sharey=True)
    _lengths(left, told)
    _ratios(right, told)
    left.set_yticks(range(len(told)), [f"{row['task']}\n{row['prompts']} prompts" for row in told], fontsize=8)
    left.invert_yaxis()
    figure.suptitle(f"N-grams and the head in one tree · {title}", fontsize=11, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path)


def _lengths(axes: Axes, told: Sequence[Mapping[str, Any]]) -> None:
    thick = 0.8 / len(DRAFT_SOURCES)
    for number, source in enumerate(DRAFT_SOURCES):
        known = {place: row["tau"][source] for place, row in enumerate(told) if row["tau"][source] is not None}
        heights, lengths = [place + (number - 1) * thick for place in known], list(known.values())
        axes.barh(heights, lengths, height=0.9 * thick, color=COLOURS[source], label=CALLED[source])
        for height, length in zip(heights, lengths, strict=True):
            axes.annotate(
                f"{length:.2f}", (length, height), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7
            )
    axes.set_xlabel("τ, tokens emitted per verification", fontsize=9)
    axes.margins(x=0.1)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)
    _plain(axes)


def _ratios(axes: Axes, told: Sequence[Mapping[str, Any]]) -> None:
    theirs = published("hybrid")["ratio"]
    axes.axvline(1, color=INK, lw=1)
    axes.axvline(theirs, color=INK, lw=1, ls=":", label=f"published, an 8B pair in RAG: {theirs:.3f}×")
    for place, row in enumerate(told):
        if row["ratio"] is None:
            continue
        if row["low"]:
            axes.plot([row["low"], row["high"]], [place, place], color=COLOURS["hybrid"], lw=1.5)
        axes.plot(row["ratio"], place, "D", color=COLOURS["hybrid"], ms=7, mec="white")
        axes.annotate(
            f"{row['ratio']:.2f}×",
            (row["ratio"], place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xlabel("τ of both, over the head's (95 % over prompts)", fontsize=9)
    axes.margins(x=0.12)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    plain(axes, "x")
