"""Throughput against the price of a draft call: the exact replay priced anew, nothing collected again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from radar_rl.evaluation.report.canvas import (
    COLOURS,
    INK,
    LINE,
    MUTED,
    SOFT,
    SURFACE,
    WIDE,
    Picture,
    apart,
    panel,
    patch,
    percents,
)
from radar_rl.evaluation.report.replay import Stops, Texts, at_price
from radar_rl.evaluation.report.wording import folded, percent, signed_percent
from radar_rl.speculative.hardware import HardwareProfile

PRICES = tuple(round(float(share), 4) for share in np.geomspace(0.01, 0.4, 17))
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
LOWEST = -0.16  # gains below it leave the chart: a fixed depth can become as slow as one likes


@dataclass(frozen=True)
class Line:
    """A policy's gain over the static depth tuned for each price.

    Attributes:
        name: what the picture calls it.
        kind: ``static``, ``rule``, ``learned`` or ``oracle``.
        gains: one for each of ``Prices.shares``; 0.05: 5 % faster.
        trained_at: share that a draft call cost where it was trained; None for what was not, or elsewhere.
        main: whether the page is about it.
    """

    name: str
    kind: str
    gains: NDArray[np.float64]
    trained_at: float | None = None
    main: bool = False


@dataclass(frozen=True)
class Prices:
    """What a draft call may cost, and the static depth tuned for it.

    Attributes:
        machine: whose other seconds stay.
        texts: what is decoded.
        shares: prices, as shares of a round's rest.
        rounds: [L], rounds of the training texts at each static depth.
        statics: where each static depth stops on the held-out texts.
    """

    machine: HardwareProfile
    texts: Texts
    shares: tuple[float, ...]
    rounds: NDArray[np.int64]
    statics: Sequence[Stops]

    @classmethod
    def around(
        cls, machine: HardwareProfile, texts: Texts, rounds: NDArray[np.int64], statics: Sequence[Stops]
    ) -> "Prices":
        """1 % … 40 %, and what the machine's draft calls cost; arguments are the attributes."""
        own = machine.draft_share(int(texts.nodes[-1]))
        shares = {*PRICES, own} if PRICES[0] <= own <= PRICES[-1] else set(PRICES)
        return cls(machine, texts, tuple(sorted(shares)), rounds, statics)

    @property
    def own(self) -> float:
        """What the machine's own draft calls cost."""
        return self.machine.draft_share(int(self.texts.nodes[-1]))

    def priced(self) -> list[HardwareProfile]:
        """The machine at each price."""
        return [at_price(self.machine, share, self.texts.nodes) for share in self.shares]

    def tuned(self) -> list[int]:
        """The static depth that is fastest on the training texts, at each price."""
        return [int(np.argmin(self.rounds * machine.round_seconds(self.texts.nodes))) + 1 for machine in self.priced()]

    def gains(self, stops: Callable[[HardwareProfile], Stops]) -> NDArray[np.float64]:
        """What a policy gains over the tuned static depth at each price.

        Args:
            stops: where it stops, on a machine of that price.
        """
        nodes = self.texts.nodes
        return (
            np.array(
                [
                    self.texts.speedup(
                        stops(machine).seconds(machine, nodes), self.statics[depth - 1].seconds(machine, nodes)
                    )
                    for machine, depth in zip(self.priced(), self.tuned(), strict=True)
                ]
            )
            - 1.0
        )


def prices_picture(prices: Prices, lines: Sequence[Line]) -> Picture:
    """Gains over the static depth tuned for each price.

    Args:
        prices: what a draft call may cost.
        lines: the policies.
    """
    main = next(line for line in lines if line.main)
    oracle = next(line for line in lines if line.kind == "oracle")
    ahead = [share for share, gain in zip(prices.shares, main.gains, strict=True) if gain > 0]

    def draw(width: float) -> Figure:
        figure, axes = panel(width, 4.0 if width == WIDE else 3.9)
        _lines(axes, prices, lines, width)
        return figure

    depths = prices.tuned()
    if not ahead:
        title = f"{main.name} is behind the tuned depth at every price of a draft call"
    elif len(ahead) == len(prices.shares):
        title = f"{main.name}, as trained, stays ahead of the tuned depth at every price of a draft call"
    else:
        title = (
            f"{main.name}, as trained, is ahead of the tuned depth where a draft call costs "
            f"{percent(ahead[0], 0)} to {percent(ahead[-1], 0)}"
        )
    return Picture(
        "prices",
        title,
        "Zero is the best fixed depth, tuned anew at every price (small numbers at the bottom). Policies stay as they "
        "were trained, a dot says for which price; only the price of a draft call changes. Nothing can be above the "
        "dashed line, the clairvoyant oracle.",
        "Line chart of tokens per second against the fixed depth tuned for each price of a draft call. "
        + " ".join(
            f"{line.name}: {signed_percent(line.gains[0])} at {percent(prices.shares[0], 0)}, "
            f"{signed_percent(line.gains[-1])} at {percent(prices.shares[-1], 0)}."
            for line in (main, *(line for line in lines if line is not main))
        )
        + f" The tuned depth falls from {depths[0]} to {depths[-1]}; the oracle's gain is "
        f"{signed_percent(float(oracle.gains.max()))} at most.",
        draw,
    )


def _lines(axes: Axes, prices: Prices, lines: Sequence[Line], width: float) -> None:
    shares = np.array(prices.shares)
    axes.set_xscale("log")
    axes.axhline(0, color=INK, lw=1.2)
    for line in lines:
        colour = SOFT if line.kind == "learned" and not line.main else COLOURS[line.kind]
        dash = {"oracle": "--", "static": ":"}.get(line.kind, "-")
        axes.plot(shares, line.gains, dash, color=colour, lw=2.4 if line.main else 1.6, zorder=4 if line.main else 3)
        if line.trained_at is not None and shares[0] <= line.trained_at <= shares[-1]:
            at = float(np.interp(np.log(line.trained_at), np.log(shares), line.gains))
            axes.plot(line.trained_at, at, "o", color=colour, ms=6, mec=SURFACE, mew=1, zorder=5)
    top = max(float(line.gains.max()) for line in lines)
    low = max(min(float(line.gains.min()) for line in lines), LOWEST)
    axes.set_ylim(low - 0.05 * (top - low), top + 0.06 * (top - low))
    _labels(axes, lines, width)
    if shares[0] <= prices.own <= shares[-1]:
        axes.axvline(prices.own, color=LINE, lw=1, zorder=1)
        _note(axes, f"here: {percent(prices.own)}", prices.own, 0.985, left=4, size=8.5)
    shown: list[int] = []
    for share, depth in zip(shares[:-1], prices.tuned(), strict=False):
        if depth not in shown:
            _note(axes, str(depth) if shown else f"depth {depth}", share, 0.015, left=3, size=8)
            shown.append(depth)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FixedFormatter([percent(tick, 0) for tick in TICKS]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(shares[0], shares[-1])
    percents(axes.yaxis)
    axes.grid(axis="y")
    axes.set_xlabel("price of a draft call, as a share of a round's rest")
    axes.set_ylabel("tokens/s against the tuned depth")


def _note(axes: Axes, words: str, price: float, height: float, left: float, size: float) -> None:
    """Write ``left`` points beside a price, at a share of the chart's height."""
    axes.annotate(
        words,
        (price, height),
        xycoords=("data", "axes fraction"),
        xytext=(left, 0),
        textcoords="offset points",
        va="top" if height > 0.5 else "bottom",
        fontsize=size,
        color=MUTED,
        bbox=patch(),
    )


def _labels(axes: Axes, lines: Sequence[Line], width: float) -> None:
    """Names at the right ends, none on another."""
    low, high = axes.get_ylim()
    names = [*(folded(line.name, 18 if width == WIDE else 12, 3) for line in lines), "tuned depth"]
    ends = [*(max(float(line.gains[-1]), low + 0.03 * (high - low)) for line in lines), 0.0]
    colours = [*(COLOURS[line.kind] for line in lines), INK]
    bold = [*(line.main for line in lines), False]
    rows = max(name.count("\n") + 1 for name in names)
    places = apart(ends, (0.05 + 0.045 * (rows - 1)) * (high - low))
    lift = max(0.0, low - min(places))
    for place, name, colour, heavy in zip(places, names, colours, bold, strict=True):
        axes.annotate(
            name,
            (1, place + lift),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
            fontweight="bold" if heavy else "normal",
            linespacing=0.95,
            annotation_clip=False,
        )
