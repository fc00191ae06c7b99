"""A round's time by its parts: what is saved, and by whom, for each machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from radar_rl.evaluation.report.canvas import COLOURS, INK, LINE, MUTED, ROLES, WIDE, Picture, patch
from radar_rl.evaluation.report.replay import Stops, Texts
from radar_rl.evaluation.report.wording import folded, milliseconds, percent
from radar_rl.speculative.hardware import HardwareProfile

PARTS = {"draft calls": "learned", "decisions": "rule", "verification": "static", "rest": "line"}


@dataclass(frozen=True)
class Bar:
    """A policy's rounds on a machine.

    Attributes:
        name: what the picture calls the policy.
        kind: of the policy.
        seconds: of a mean round, by part.
        tokens: that a mean round emits.
    """

    name: str
    kind: str
    seconds: dict[str, float]
    tokens: float

    @classmethod
    def of(cls, name: str, kind: str, stops: Stops, machine: HardwareProfile, texts: Texts) -> "Bar":
        """A policy's mean round, over all texts.

        Args:
            name: what the picture calls it.
            kind: ``static``, ``rule``, ``learned`` or ``oracle``.
            stops: where it stops.
            machine: whose seconds.
            texts: what is decoded.
        """
        rounds = int(stops.rounds.sum())
        parts = {part: seconds / rounds for part, seconds in stops.parts(machine, texts.nodes).items()}
        return cls(name, kind, parts, int(texts.emitted.sum()) / rounds)

    @property
    def round_seconds(self) -> float:
        """Seconds of a round."""
        return sum(self.seconds.values())

    @property
    def token_seconds(self) -> float:
        """Seconds that a token takes."""
        return self.round_seconds / self.tokens


@dataclass(frozen=True)
class Machine:
    """The bars of a machine: those of the tuned static depth and of the page's policy are told apart by the title."""

    name: str
    bars: tuple[Bar, ...]
    tuned: Bar
    best: Bar


def round_time_picture(machines: Sequence[Machine]) -> Picture:
    """What a token costs by the parts of a round, the tuned static depth's being 100 %.

    Args:
        machines: the page's first.
    """
    first = machines[0]
    shorter = first.best.round_seconds / first.tuned.round_seconds - 1
    fewer = first.best.tokens / first.tuned.tokens - 1
    parts = [part for part in PARTS if any(bar.seconds[part] > 0 for each in machines for bar in each.bars)]

    def draw(width: float) -> Figure:
        wide = width == WIDE
        bars = sum(len(each.bars) for each in machines)
        height = 0.55 + (0.26 if wide else 0.3) * bars + (0.34 if wide else 0.42) * len(machines)
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, hspace=0.0))
        panels = figure.subplots(
            len(machines), 1, squeeze=False, sharex=True, height_ratios=[len(each.bars) for each in machines]
        )[:, 0]
        for axes, each in zip(panels, machines, strict=True):
            _bars(axes, each, parts, wide)
        longest = max(bar.token_seconds / each.tuned.token_seconds for each in machines for bar in each.bars)
        panels[-1].set_xlim(0, longest * (1.24 if wide else 1.32))
        panels[-1].set_xlabel("time a token takes, tuned depth = 100" + ("\u202f%" if wide else ""))
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside upper left",
            ncols=4 if wide else 2,
            frameon=False,
            fontsize=8.5,
            handlelength=0.9,
            handleheight=0.9,
            borderaxespad=0.1,
            columnspacing=1.4,
        )
        return figure

    title = (
        f"With {first.best.name} a round takes {_change(shorter, 'less', 'more')} time and brings "
        f"{_change(fewer, 'fewer', 'more')} tokens"
    )
    return Picture(
        "round-time",
        title,
        "Bars are what a token takes on each machine, with the policy trained for it, split as a round's time is: the "
        "shorter, the faster. Behind each bar: tokens a round, and a round's time; fixed depths are in brackets. All "
        "texts count together here, not task by task.",
        "Bar chart of the time a token takes by part of a round. "
        + " ".join(
            f"{each.name}: "
            + "; ".join(
                f"{bar.name} {milliseconds(bar.round_seconds)} a round, {bar.tokens:.2f} tokens" for bar in each.bars
            )
            + "."
            for each in machines
        ),
        draw,
    )


def _change(share: float, down: str, up: str) -> str:
    size = percent(abs(share))
    return f"{size} {down if share < 0 else up}"


def _bars(axes: Axes, machine: Machine, parts: Sequence[str], wide: bool) -> None:
    unit = machine.tuned.token_seconds
    for place, bar in enumerate(machine.bars):
        start = 0.0
        for part in parts:
            length = bar.seconds[part] / bar.tokens / unit
            name = part if place == 0 else None
            axes.barh(place, length, left=start, height=0.66, color=ROLES[PARTS[part]][0], label=name)
            start += length
        note = f"{bar.tokens:.2f} tok, {milliseconds(bar.round_seconds)}"
        axes.annotate(
            note if wide else f"{bar.tokens:.2f}\u2009/\u2009{milliseconds(bar.round_seconds)}",
            (start, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=MUTED if bar is machine.tuned else INK,
            bbox=patch(),
        )
    axes.set_yticks(range(len(machine.bars)), [folded(bar.name, 24 if wide else 13, 1) for bar in machine.bars])
    for tick, bar in zip(axes.get_yticklabels(), machine.bars, strict=True):
        tick.set_color(COLOURS[bar.kind] if bar.kind != "static" else MUTED)
        tick.set_fontweight("bold" if bar is machine.best else "normal")
    axes.set_ylim(len(machine.bars) - 0.5, -0.5)
    axes.axvline(1, color=LINE, lw=1, zorder=0)
    axes.set_title(folded(machine.name, 80 if wide else 40, 1), loc="left", fontsize=9, color=INK, pad=3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
