"""What pictures have in common: colours by role, bare axes, and the same for notebooks. A report's page has its own."""

from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes

INK, GRID = "#2b2d33", "#e6e6e6"
COLOURS = {"static": "#8a8f98", "rule": "#b3761d", "learned": "#1f6fb4", "oracle": INK}
"""By kind of policy."""

NOTEBOOK: dict[Any, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "font.size": 9,
    "legend.frameon": False,
}


def plain(axes: Axes, grid: Literal["x", "y", "both"] = "both") -> None:
    """No frame above and at the right, a faint grid behind what is drawn.

    Args:
        axes: the panel.
        grid: along which axis there are lines.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID, lw=0.8)


def notebook_style() -> None:
    """Let the figures of this process, a notebook's, be small and bare: sets matplotlib's defaults to ``NOTEBOOK``."""
    matplotlib.rcParams.update(NOTEBOOK)
