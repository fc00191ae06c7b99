"""Where policies stop: the share of drafts that end, by draft calls made and by the draft's own confidence."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from radar_rl.evaluation.report.canvas import COLOURS, GRID, MUTED, WIDE, Picture
from radar_rl.evaluation.report.replay import CONFIDENCES, Stops
from radar_rl.evaluation.report.wording import PERCENT, folded, percent

FEWEST = 20  # drafts, to tell a share of
UNSURE, SURE = 0.05, 0.4  # what the title calls so; edges of ``CONFIDENCES``


def stopping_picture(followed: Mapping[str, tuple[str, Stops]]) -> Picture:
    """Maps of the share of drafts that end, side by side.

    Args:
        followed: by what the picture calls a policy its kind and where it stops; the page's policy first.
    """
    first = next(iter(followed))
    told = {name: _unsure_and_sure(stops.decisions) for name, (_, stops) in followed.items()}
    shares = ", ".join(f"{name} {percent(unsure, 0)}" for name, (unsure, _) in told.items() if name != first)

    def draw(width: float) -> Figure:
        wide = width == WIDE
        rows, columns = (1, len(followed)) if wide else (len(followed), 1)
        layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
        figure = Figure(figsize=(width, 2.9 if wide else 2.35 * rows), layout=layout)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=wide, sharey=wide).ravel()
        for place, (axes, (name, (kind, stops))) in enumerate(zip(panels, followed.items(), strict=True)):
            _map(axes, stops.decisions, COLOURS[kind])
            axes.set_title(folded(name, 26, 1), loc="left", fontsize=9.5, fontweight="bold", color=COLOURS[kind])
            if not wide or place == 0:
                axes.set_ylabel("draft calls made")
            if not wide and place == len(followed) - 1:
                axes.set_xlabel(f"probability of the best path,{PERCENT}")
        if wide:
            figure.supxlabel(
                f"probability of the draft's best path, by its own belief,{PERCENT}", fontsize=9, color=MUTED
            )
        return figure

    unsure, sure = told[first]
    return Picture(
        "stopping",
        f"{first} stops {percent(unsure, 0)} of unsure drafts and {percent(sure, 0)} of sure ones",
        "Each square is all drafts that came that far with that confidence: the stronger its colour, the more of them "
        "end there; the smaller, the rarer such drafts are. "
        f"Unsure is a best path below {percent(UNSURE, 0)}, sure one above {percent(SURE, 0)}"
        + (f"; of unsure drafts {shares} stop." if shares else "."),
        f"Maps of where drafts end, by draft calls made and probability of the best path, for {', '.join(followed)}. "
        + " ".join(
            f"{name} stops {percent(low, 0)} of drafts below {percent(UNSURE, 0)} and {percent(high, 0)} of those "
            f"above {percent(SURE, 0)}."
            for name, (low, high) in told.items()
        ),
        draw,
    )


def _unsure_and_sure(decisions: NDArray[np.int64]) -> tuple[float, float]:
    edges = np.array(CONFIDENCES[:-1])
    parts = decisions[:, edges < UNSURE].sum(axis=(0, 1)), decisions[:, edges >= SURE].sum(axis=(0, 1))
    unsure, sure = (float(part[1] / max(part.sum(), 1)) for part in parts)
    return unsure, sure


def _map(axes: Axes, decisions: NDArray[np.int64], colour: str) -> None:
    counts = decisions.sum(axis=2)
    shares = decisions[:, :, 1] / np.maximum(counts, 1)
    most = counts.max(initial=1)
    for call in range(len(counts)):
        for kind, number in enumerate(counts[call]):
            if number < FEWEST:
                continue
            side = 0.96 * max(float(number / most) ** 0.25, 0.3)
            corner = (kind + 0.5 - side / 2, call + 1 - side / 2)
            axes.add_patch(Rectangle(corner, side, side, facecolor=GRID, edgecolor="none"))
            share = float(shares[call, kind])
            axes.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor="none", alpha=share))
    axes.set_xlim(-0.05, len(CONFIDENCES) - 0.95)
    axes.set_ylim(0.45, len(counts) + 0.55)
    axes.set_xticks(range(len(CONFIDENCES)), [f"{100 * edge:g}" for edge in CONFIDENCES])
    axes.set_yticks(range(1, len(counts) + 1))
    axes.tick_params(length=2, labelsize=8)
    axes.spines[["left", "bottom"]].set_color(GRID)
