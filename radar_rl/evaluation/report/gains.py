"""Who gains how much over the best fixed depth, how sure that is, and what share of the possible it is."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radar_rl.evaluation.report.canvas import COLOURS, INK, LINE, SURFACE, WIDE, Picture, panel, percents
from radar_rl.evaluation.report.evaluated import Row, at_home, depth_of, label, of_kind, the
from radar_rl.evaluation.report.wording import folded, interval, percent, signed_percent

LEARNED, RULES = 6, 5  # the best of each that are shown


def shown_policies(judged: Sequence[Row]) -> list[Row]:
    """The rows that picture and table show, from fast to slow: the best of each kind, and the default depth."""
    static = of_kind(judged, "static")
    default = max(static, key=lambda row: row["draft_calls"])
    rows = [*at_home(judged)[:LEARNED], *of_kind(judged, "rule")[:RULES], default]
    ordered = sorted(rows, key=lambda row: -row["speedup_static"])
    return [the(judged, "oracle"), *(row for row in ordered if row["policy"] != default["baseline"])]


def gains_picture(judged: Sequence[Row], best: Row) -> Picture:
    """Speedups over the tuned static depth with their 95 % intervals, and shares of the oracle gap.

    Args:
        judged: the rows of a machine by which policies are judged.
        best: the policy that the page is about.
    """
    rows = shown_policies(judged)
    names = [_name(row, rows) for row in rows]
    oracle = rows[0]["speedup_static"] - 1
    known = rows[0]["speedup_static_low"] is not None

    def draw(width: float) -> Figure:
        wide = width == WIDE
        figure, axes = panel(width, (0.75 if wide else 0.7) + (0.27 if wide else 0.36) * len(rows))
        for place, row in enumerate(rows):
            _gain(axes, place, row, row["policy"] == best["policy"], 1.0 if wide else 0.5)
        axes.axvline(0, color=INK, lw=1.2)
        axes.set_yticks(range(len(rows)), [folded(name, 30 if wide else 15, 2) for name in names])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color(COLOURS[row["kind"]])
            tick.set_fontweight("bold" if row["policy"] == best["policy"] else "normal")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        low, high = axes.dataLim.intervalx
        room = (0.12 if wide else 0.36) * (high - low)
        axes.set_xlim(low - (room if low < 0 else 0.1 * room), high + room)
        axes.grid(axis="x")
        percents(axes.xaxis)
        axes.set_xlabel(f"tokens/s against depth {depth_of(best['baseline'])}, tuned")
        if oracle > 0:
            above = axes.secondary_xaxis("top", functions=(lambda gain: gain / oracle, lambda share: share * oracle))
            above.set_xticks([0, 0.25, 0.5, 0.75, 1] if wide else [0, 0.5, 1])
            above.xaxis.set_major_formatter(lambda value, _: percent(value, 0))
            above.spines["top"].set_color(LINE)
            above.set_xlabel("share of the oracle gap closed", labelpad=5)
        return figure

    gain = best["speedup_static"] - 1
    closed = f", {percent(best['oracle_gap_closed'], 0)} of the possible" if best["oracle_gap_closed"] else ""
    means = "means over tasks, every task weighing the same" if best["task"] == "mean" else "over all texts"
    return Picture(
        "gains",
        f"{_name(best, rows)} gains {signed_percent(gain)} over the best fixed depth{closed}",
        f"Dots are {means}; bars through them "
        + ("hold the truth in 95\u202f% of draws of the prompts. " if known else "are missing: too few prompts. ")
        + "The oracle knows the future text, so nobody reaches it: the scale on top counts from the tuned depth to it.",
        "Dot chart of gains over the tuned fixed depth. " + " ".join(f"{_said(row, rows)}." for row in rows),
        draw,
    )


def _name(row: Row, rows: Sequence[Row]) -> str:
    return label(row, rows) + (", the default" if row["kind"] == "static" else "")


def _said(row: Row, rows: Sequence[Row]) -> str:
    low, high = row["speedup_static_low"], row["speedup_static_high"]
    between = f" ({interval(low, high)})" if low is not None else ""
    return f"{_name(row, rows)}: {signed_percent(row['speedup_static'] - 1)}{between}"


def _gain(axes: Axes, place: int, row: Row, main: bool, dot: float) -> None:
    gain, low, high = (None if row[name] is None else row[name] - 1 for name in _FIGURES)
    colour: Any = COLOURS[row["kind"]]
    assert gain is not None
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, lw=5 if main else 3.5, alpha=0.35, solid_capstyle="butt")
    axes.plot(gain, place, "o", color=colour, ms=dot * (7 if main else 5.5), mec=SURFACE, mew=0.8 * dot, zorder=4)
    end = (low if gain < 0 else high) if low is not None else gain
    axes.annotate(
        signed_percent(gain),
        (end, place),
        xytext=(-6 if gain < 0 else 6, 0),
        textcoords="offset points",
        ha="right" if gain < 0 else "left",
        va="center",
        fontsize=8.5,
        color=colour,
        fontweight="bold" if main else "normal",
    )


_FIGURES = ("speedup_static", "speedup_static_low", "speedup_static_high")
