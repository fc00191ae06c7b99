"""How high the nodes of a draft tree stand in a picture, so that no edge crosses another and no label covers one."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.envs.picture import children, levels
from radar_rl.rollouts.view import TreeView

DOT = 0.36  # height of a node without label, in label heights
LOOSEST = 2.0  # a small tree is not pulled apart further than this


@dataclass(frozen=True)
class Layout:
    """Heights of the nodes, the root in the middle.

    Attributes:
        heights: [n] float64, 0 (top) … 1.
        labelled: [n] bool, whether there is room for the node's label.
    """

    heights: NDArray[np.float64]
    labelled: NDArray[np.bool_]


def tree_layout(tree: TreeView, rows: float) -> Layout:
    """Heights of a tree whose parents are known, siblings from the most to the least probable.

    The root and the accepted nodes are labelled, and of the others the most probable ones that there is room for.

    Args:
        tree: the tree.
        rows: labels that fit under one another.
    """
    below = children(tree)
    count = len(below)
    first = np.arange(count) == 0 if tree.path is None else tree.path
    order = np.lexsort((-tree.log_probs, ~first))

    def taken(labels: int) -> NDArray[np.float64]:
        """The rows that each node and what is below it takes when so many labels are shown: [n]."""
        own = np.full(count, DOT)
        own[order[:labels]] = 1.0
        for node in range(count - 1, -1, -1):
            own[node] = max(own[node], sum(own[child] for child in below[node]))
        return own

    # More labels never take fewer rows, and the first ones are shown in any case.
    least = int(first.sum())
    labels = max(least, bisect_right(range(count + 1), rows, key=lambda labels: float(taken(labels)[0])) - 1)
    own = taken(labels)
    top = np.zeros(count)
    for node, nodes_below in enumerate(below):
        start = top[node] + (own[node] - sum(own[child] for child in nodes_below)) / 2
        for child in nodes_below:
            top[child] = start
            start += own[child]
    middle = top + own / 2
    labelled = np.zeros(count, dtype=np.bool_)
    labelled[order[:labels]] = True
    return Layout(0.5 + (middle - own[0] / 2) / max(own[0], rows / LOOSEST), labelled)


def beam_layout(tree: TreeView, rows: float) -> Layout:
    """Heights of beams: at each level the most probable node at the top, the root in the middle."""
    widest = max((len(nodes) for nodes in levels(tree)), default=1)
    heights = np.full(len(tree.depths), 0.5)
    for nodes in levels(tree):
        heights[nodes] = 0.5 + (np.arange(len(nodes)) - (widest - 1) / 2) / max(widest, rows / LOOSEST)
    return Layout(heights, np.full(len(tree.depths), widest <= rows))
