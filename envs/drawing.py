"""A scene as a figure: the tree by levels, edges as wide as their nodes are probable, and gain and cost over time.

``draw`` returns a matplotlib ``Figure``, which saves itself as PDF or SVG too.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.path import Path
from numpy.typing import ArrayLike, NDArray

from radar_rl.envs.layout import Layout, beam_layout, tree_layout
from radar_rl.envs.picture import NO_TOKENS, Scene, end_of, names_of, visible
from radar_rl.rollouts.view import TreeView

WIDTH, HEIGHT, DPI = 1280, 720, 160  # even, as video codecs want them
INK, QUIET, OPEN, FAINT, PAPER = "#2b2d33", "#6b717b", "#9aa1ab", "#cdd1d7", "#f4f5f7"
ACCEPTED, ACCEPTED_PALE, PAID = "#1f6fb4", "#e3eef8", "#b3761d"

LABEL_SIZE = 6.5  # points
# In pixels:
CHARACTER = 0.602 * LABEL_SIZE * DPI / 72  # width of a character of DejaVu Sans Mono
ROW, FRAME, DOT = 17.5, 15.0, 6.0  # heights: from one label to the next, of a label's frame, of a dot
PAD, BASELINE = 4.0, 3.8  # from a frame to its label; from the middle down to the letters' feet
GAP = 34.0  # between two columns, left for edges
HEADINGS = 26.0  # height of the levels' headings
ROUND = "round,pad=0,rounding_size=4"
TREE = (14.0, 78.0, 1252.0, 480.0)  # left, top, width, height
ROWS = (TREE[3] - HEADINGS) / ROW  # labels that fit under one another
CURVES = (82.0, 580.0, 620.0, 84.0)
KEY = (984.0, 580.0)  # left, top

LEGEND: dict[str, Any] = {"loc": "upper left", "frameon": False, "fontsize": 7, "labelcolor": INK}
LEGEND |= {"borderpad": 0, "borderaxespad": 0, "handlelength": 1.5, "handletextpad": 0.6, "columnspacing": 1.4}


def draw(scene: Scene) -> Figure:
    """The scene as a figure of 8 × 4.5 inches."""
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    _title(figure, scene)
    _tree(_panel(figure, TREE), scene)
    _key(figure, scene)
    _balance(_panel(figure, CURVES), scene)
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure as an image: [height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()


def edge_widths(log_probs: ArrayLike) -> NDArray[np.float64]:
    """In points. Grows as the root of the probability, else all but a few edges would be hairlines."""
    return np.asarray(0.35 + 4.0 * np.exp(np.asarray(log_probs, dtype=np.float64) / 2))


def dot_sizes(log_probs: ArrayLike) -> NDArray[np.float64]:
    """Diameters in points."""
    return 1.0 + 2.0 * edge_widths(log_probs)


def shortened(text: str, characters: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def drawable(text: str) -> str:
    """Text in which a character that the font lacks is named by its code point."""
    font = get_font(findfont(FontProperties(family="monospace")))
    return "".join(c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in text)


def _panel(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    left, top, width, height = place
    return figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))


def _tokens(size: float) -> dict[str, Any]:
    """How text of the model is set: in characters of one width, and never read as a formula."""
    return {"family": "monospace", "fontsize": size, "parse_math": False, "usetex": False}


def _title(figure: Figure, scene: Scene) -> None:
    left, lines = 16 / WIDTH, (1 - 24 / HEIGHT, 1 - 55 / HEIGHT)
    figure.text(left, lines[0], scene.headline, fontsize=10, fontweight="bold", color=INK, va="center")
    if scene.tree.parents is None:
        figure.text(left, lines[1], NO_TOKENS, fontsize=7.5, color=QUIET, va="center")
    elif scene.text is not None:
        text = end_of(drawable(visible(scene.text, space=" ")), 110)
        figure.text(left, lines[1], text, color=QUIET, va="center", **_tokens(7.5))


def _key(figure: Figure, scene: Scene) -> None:
    """What widths, sizes and colours mean."""
    bare = scene.tree.parents is None
    handles: list[Line2D | Patch] = []
    for probability in (1.0, 0.1, 0.01):
        width = float(edge_widths(np.log(probability)))
        size = float(dot_sizes(np.log(probability)))
        dot = Line2D([], [], color=OPEN, ls="", marker="o", ms=size, label=f"{probability:g}")
        edge = Line2D([], [], color=OPEN, lw=width, solid_capstyle="butt", label=f"{probability:g}")
        handles.append(dot if bare else edge)
    left, top = KEY
    title = f"{'size' if bare else 'width'}: cumulative draft probability"
    figure.text(left / WIDTH, 1 - (top + 8) / HEIGHT, title, fontsize=7, color=INK, va="center")
    figure.legend(handles=handles, ncols=3, bbox_to_anchor=(left / WIDTH, 1 - (top + 24) / HEIGHT), **LEGEND)
    if bare:
        handles = [Patch(fc=ACCEPTED_PALE, ec=ACCEPTED, lw=0.6, label="accepted levels")]
    else:
        handles = [Patch(color=ACCEPTED, label="accepted"), Patch(fc="white", ec=ACCEPTED, label="bonus token")]
    figure.legend(handles=handles, ncols=2, bbox_to_anchor=(left / WIDTH, 1 - (top + 54) / HEIGHT), **LEGEND)


def _tree(axes: Axes, scene: Scene) -> None:
    """The tree, a column for each level that there can be, so that nothing moves sideways while it grows.

    Behind the last level is one more, for the bonus token of a path that reaches it.
    """
    _, _, width, height = TREE
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    column = width / (scene.max_depth + 2)
    tree, accepted = scene.tree, scene.tree.accepted or 0
    for level in range(scene.max_depth + 1):
        colour = ACCEPTED if 0 < level <= accepted else INK if level <= tree.draft_calls else FAINT
        name = f"level {level}" if level else "root"
        axes.text(level * column, 6, name, color=colour, fontsize=7, va="center")
    axes.plot([0, width], [16, 16], color=FAINT, lw=0.6)
    if tree.parents is None:
        _draw_beams(axes, tree, column)
    else:
        _draw_branches(axes, _with_bonus(tree), column, bonus=len(tree.depths))


def _with_bonus(tree: TreeView) -> TreeView:
    """The tree with the bonus token behind the last accepted node."""
    if not tree.bonus or tree.path is None or tree.parents is None or tree.labels is None:
        return tree
    last = int(np.flatnonzero(tree.path)[-1])
    return replace(
        tree,
        depths=np.append(tree.depths, tree.depths[last] + 1),
        log_probs=np.append(tree.log_probs, tree.log_probs[last]),
        parents=np.append(tree.parents, last),
        labels=(*tree.labels, tree.bonus),
        path=np.append(tree.path, True),
    )


def _draw_branches(axes: Axes, tree: TreeView, column: float, bonus: int) -> None:
    """Every node as a framed label, or as a dot where there is no room for it, joined to its parent."""
    layout = tree_layout(tree, ROWS)
    names = names_of(tree) or [f"{p:.2g}" for p in np.exp(tree.log_probs)]
    room = max(2, int((column - GAP - 2 * PAD) / CHARACTER))
    names = [shortened(drawable(name), room) for name in names]
    left, y = tree.depths * column, _pixels_down(layout)
    right = left + np.where(layout.labelled, [2 * PAD + len(name) * CHARACTER for name in names], DOT)
    on_path = np.zeros(len(y), dtype=np.bool_) if tree.path is None else tree.path
    rest = OPEN if tree.path is None else FAINT
    _draw_edges(axes, tree, np.stack([left, right, y]), on_path, rest, bonus)
    dots = ~layout.labelled
    axes.scatter(left[dots] + DOT / 2, y[dots], s=5, color=rest, zorder=2)
    frames = []
    for node in np.flatnonzero(layout.labelled):
        face, edge, ink = PAPER, FAINT, INK if tree.path is None else QUIET
        if on_path[node]:
            face, edge, ink = ("white", ACCEPTED, ACCEPTED) if node == bonus else (ACCEPTED, ACCEPTED, "white")
        corner, width = (left[node], y[node] - FRAME / 2), right[node] - left[node]
        frames.append(FancyBboxPatch(corner, width, FRAME, boxstyle=ROUND, fc=face, ec=edge, lw=0.6))
        axes.text(left[node] + PAD, y[node] + BASELINE, names[node], color=ink, **_tokens(LABEL_SIZE))
    axes.add_collection(PatchCollection(frames, match_original=True, zorder=2.5), autolim=False)


def _draw_edges(
    axes: Axes, tree: TreeView, places: NDArray[np.float64], on_path: NDArray[np.bool_], rest: str, bonus: int
) -> None:
    """Curves from the parents' right to the nodes' left ends; ``places``: [3, n], left, right and height."""
    assert tree.parents is not None
    nodes = np.arange(1, len(on_path))
    nodes = nodes[np.argsort(on_path[nodes], kind="stable")]  # the accepted path above the others
    (left, _, y), (_, right, above) = places[:, nodes], places[:, tree.parents[nodes]]
    curves = []
    for x0, y0, x1, y1 in zip(right, above, left, y, strict=True):
        middle = (x0 + x1) / 2
        curves.append(Path([(x0, y0), (middle, y0), (middle, y1), (x1, y1)], [Path.MOVETO, *[Path.CURVE4] * 3]))
    edges = PathCollection(
        curves,
        # No draft head has an opinion of the bonus token.
        linewidths=np.where(nodes == bonus, 1.0, edge_widths(tree.log_probs[nodes])),
        linestyles=[(0, (2, 1.5)) if node == bonus else "-" for node in nodes],
        edgecolors=[ACCEPTED if on_path[node] else rest for node in nodes],
        facecolors="none",
    )
    axes.add_collection(edges, autolim=False)


def _draw_beams(axes: Axes, tree: TreeView, column: float) -> None:
    """Each level's nodes under one another, and a band over the accepted levels."""
    layout = beam_layout(tree, ROWS)
    left, y = tree.depths * column, _pixels_down(layout)
    if tree.accepted:
        corner, depth = (column - PAD, y.min() - ROW), y.max() - y.min() + 2 * ROW
        width = tree.accepted * column - 2 * PAD
        band = FancyBboxPatch(corner, width, depth, boxstyle=ROUND, fc=ACCEPTED_PALE, ec=ACCEPTED, lw=0.6, zorder=0)
        axes.add_patch(band)
    accepted = tree.depths <= (-1 if tree.accepted is None else tree.accepted)
    sizes = dot_sizes(tree.log_probs) ** 2
    axes.scatter(left + 12, y, s=sizes, color=np.where(accepted, ACCEPTED, OPEN), lw=0)
    for node in np.flatnonzero(layout.labelled & (tree.depths > 0)):
        probability = f"{np.exp(tree.log_probs[node]):.2g}"
        axes.text(left[node] + 26, y[node] + BASELINE, probability, color=QUIET, **_tokens(LABEL_SIZE))


def _pixels_down(layout: Layout) -> NDArray[np.float64]:
    return HEADINGS + (TREE[3] - HEADINGS) * layout.heights


def _balance(axes: Axes, scene: Scene) -> None:
    """What has been gained and paid, over seconds."""
    seconds, gained, paid = (np.asarray(line, dtype=np.float64) for line in (scene.seconds, scene.gained, scene.paid))
    stops, balance = np.asarray(scene.stops, dtype=np.bool_), gained[-1] - paid[-1]
    between = axes.fill_between(seconds, paid, gained, step="post", color=FAINT, alpha=0.5, lw=0)
    (cost,) = axes.step(seconds, paid, where="post", color=PAID, lw=1.3)
    (gain,) = axes.step(seconds, gained, where="post", color=ACCEPTED, lw=1.3)
    size = min(3.0, max(0.8, 120 / max(1, int(stops.sum()))))
    (ends,) = axes.plot(seconds[stops], gained[stops], "o", color=ACCEPTED, ms=size, clip_on=False)
    low, high = min(0.0, gained.min(), paid.min()), max(gained.max(), paid.max())
    axes.set(xlim=(0, 1.03 * seconds[-1] or 1.0), ylim=(1.05 * low, 1.05 * high if high > low else low + 1))
    axes.tick_params(labelsize=6.5, length=2.5, color=QUIET, labelcolor=QUIET)
    speed = scene.tokens_per_second
    pace = "" if speed is None else f", {speed:.4g} tokens per second so far"
    axes.set_xlabel(f"seconds{pace}", fontsize=7, color=QUIET, labelpad=1)
    axes.set_ylabel(scene.unit, fontsize=7, color=QUIET)
    axes.yaxis.set_label_coords(-0.1, 0.5)  # matplotlib would move it with the width of the numbers
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    numbers = {
        f"gained {gained[-1]:.2f} {scene.unit}": gain,
        f"paid {paid[-1]:.2f} {scene.unit}": cost,
        f"sum of rewards {balance:+.2f}".replace("-", "−"): between,
        "stop": ends,
    }
    axes.legend(list(numbers.values()), list(numbers), bbox_to_anchor=(1.03, 1.0), **LEGEND)
