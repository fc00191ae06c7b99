"""The comparison as a picture: throughput against draft calls, and the gain over the tuned static depth."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from radar_rl.evaluation.compare import ALL_TASKS
from radar_rl.evaluation.style import COLOURS, INK, plain

TICKS = 5  # more run together where gains are wide
MARKERS = {"rule": "X", "learned": "D", "oracle": "*"}


def draw_comparison(rows: pl.DataFrame, baseline: str, pair: str, path: Path) -> None:
    """Draw the figures over all tasks.

    Args:
        rows: what ``comparison`` returned, for one profile.
        baseline: name of the tuned static depth.
        pair: how to call target and draft head.
        path: the PNG to write.
    """
    overall = rows.filter(pl.col("task") == ALL_TASKS)
    entries = list(overall.iter_rows(named=True))
    bars = _bars(entries, baseline)
    figure = Figure(figsize=(11, max(4.6, 1.6 + 0.27 * len(bars))), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _throughput(left, entries, baseline)
    _gains(right, bars, baseline)
    first = entries[0]
    figure.suptitle(f"When to stop drafting · {pair}", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(
        f"{first['prompts']} held-out prompts, replayed exactly · seconds: {first['hardware']} · "
        f"a draft call costs {first['marginal_draft_share']:.1%} of a round's rest",
        fontsize=8,
        color="#555555",
    )
    figure.savefig(path)


def _throughput(axes: Axes, entries: list[dict[str, Any]], baseline: str) -> None:
    statics = [entry for entry in entries if entry["kind"] == "static"]
    calls = [entry["draft_calls"] for entry in statics]
    speeds = [entry["tokens_per_second"] for entry in statics]
    axes.plot(calls, speeds, "-o", color=COLOURS["static"], lw=1.5, ms=4, label="static depth", zorder=1)
    for entry in statics:
        if entry["policy"] == baseline:
            axes.plot(entry["draft_calls"], entry["tokens_per_second"], "o", ms=10, mfc="none", mec=COLOURS["static"])
            _named(axes, entry, "tuned", below=True)
    for kind, marker in MARKERS.items():
        own = [entry for entry in entries if entry["kind"] == kind]
        if not own:
            continue
        axes.plot(
            [entry["draft_calls"] for entry in own],
            [entry["tokens_per_second"] for entry in own],
            marker,
            color=COLOURS[kind],
            ms=13 if kind == "oracle" else 7,
            mec="white",
            mew=0.8,
            label={"rule": "tuned rules", "learned": "learned", "oracle": "clairvoyant oracle"}[kind],
            zorder=4 if kind == "learned" else 3,
        )
        if kind != "oracle":
            _named(axes, max(own, key=lambda entry: entry["tokens_per_second"]))
    axes.set_xlabel("draft calls per round")
    axes.set_ylabel("tokens per second")
    axes.margins(0.1)
    plain(axes)
    axes.legend(fontsize=8, frameon=False)


def _named(axes: Axes, entry: dict[str, Any], name: str | None = None, below: bool = False) -> None:
    """Write a policy's name at its point."""
    axes.annotate(
        name or entry["policy"],
        (entry["draft_calls"], entry["tokens_per_second"]),
        xytext=(0, -16 if below else 8),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color="#555555" if below else COLOURS[entry["kind"]],
        zorder=5,
    )


def _bars(entries: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """What the right panel shows, from the largest gain to the smallest."""
    static = [entry for entry in entries if entry["kind"] == "static" and entry["policy"] != baseline]
    # The best of the other static depths is enough beside the tuned one: the left panel has them all.
    runner_up = [max(static, key=lambda entry: entry["speedup_static"])] if static else []
    others = [entry for entry in entries if entry["kind"] != "static"]
    return sorted(runner_up + others, key=lambda entry: -entry["speedup_static"])


def _gains(axes: Axes, shown: list[dict[str, Any]], baseline: str) -> None:
    gains = np.array([entry["speedup_static"] - 1 for entry in shown])
    for height, (entry, gain) in enumerate(zip(shown, gains, strict=True)):
        low, high = entry["speedup_static_low"], entry["speedup_static_high"]
        colour = COLOURS[entry["kind"]]
        axes.barh(height, gain, color=colour, alpha=0.85, height=0.6)
        if low is not None:
            axes.plot([low - 1, high - 1], [height, height], color="black", lw=1.0, zorder=4)
            axes.plot([low - 1, high - 1], [height, height], "|", color="black", ms=5, zorder=4)
        closed = entry["oracle_gap_closed"]
        note = f" {gain:+.1%}"
        if closed is not None and entry["kind"] in ("rule", "learned"):
            note += f" · {round(closed, 2) + 0.0:.0%} of the gap"  # no negative nothing
        end = max(gain, 0.0 if high is None else high - 1, 0.0)
        axes.annotate(note, (end, height), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(0, color=INK, lw=1)
    axes.set_yticks(range(len(shown)), [entry["policy"] for entry in shown], fontsize=8)
    for label, entry in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(COLOURS[entry["kind"]])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+.3g}%" if abs(value) > 1e-9 else "0%")
    )
    axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    axes.set_xlabel(f"tokens/s against {baseline}, 95 % over prompts")
    lows = [entry["speedup_static_low"] or entry["speedup_static"] for entry in shown]
    left, right = min(min(lows) - 1, 0.0), max(float(gains.max()), 0.01)
    axes.set_xlim(left - 0.04 * (right - left), right + 0.35 * (right - left))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    plain(axes, "x")
