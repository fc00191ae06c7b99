"""Pictures of an episode: the draft tree of the newest step, and what the steps so far have gained and cost.

Here are what a picture shows and how it is printed; ``radar_rl.envs.drawing`` draws the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from radar_rl.rollouts.view import TreeView

ON_PATH, OFF_PATH, BONUS = "●", "○", "◆"
SYMBOLS = {"\n": "⏎", "\t": "⇥", " ": "␣"}
EMPTY = "∅"
NO_TOKENS = "a trace holds no tokens and no edges: each level's beam, best first"


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        tree: of the newest step.
        position: index of the root token in prompt + completion.
        max_depth: most draft calls in a round.
        text: the end of the text so far, before the tree; None where the tokens are not known.
        gained: [steps + 1], what the episode has gained after each step, from 0 on.
        paid: [steps + 1], what it has paid, from 0 on.
        seconds: [steps + 1], seconds of the episode after each step, from 0 on.
        stops: [steps + 1] bool, whether the step ended a round.
        unit: of ``gained`` and ``paid``: ``tokens`` or ``reward``.
    """

    tree: TreeView
    position: int
    max_depth: int
    text: str | None
    gained: Sequence[float]
    paid: Sequence[float]
    seconds: Sequence[float]
    stops: Sequence[bool]
    unit: str

    @property
    def headline(self) -> str:
        """Where the round starts and how far it is."""
        tree = self.tree
        if tree.accepted is None:
            return f"position {self.position} · draft call {tree.draft_calls} of {self.max_depth}"
        calls = f"{tree.draft_calls} draft call{'s' if tree.draft_calls > 1 else ''}"
        return f"position {self.position} · {calls}, verified: accepted {tree.accepted}, emitted {tree.emitted}"

    @property
    def tokens_per_second(self) -> float | None:
        """Of the episode so far; None where nothing has been emitted or the gain is not counted in tokens."""
        known = self.unit == "tokens" and self.gained[-1] > 0 and self.seconds[-1] > 0
        return self.gained[-1] / self.seconds[-1] if known else None


def visible(text: str, space: str = SYMBOLS[" "]) -> str:
    r"""Text on one line, every character to be seen: a line break as ⏎, a control character as \x1b."""
    symbols = SYMBOLS | {" ": space}
    return "".join(symbols.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)


def names_of(tree: TreeView) -> list[str] | None:
    """The nodes' tokens on one line each, one without text as ∅; None where they are not known."""
    return None if tree.labels is None else [visible(label) or EMPTY for label in tree.labels]


def end_of(line: str, characters: int) -> str:
    """The line, or an ellipsis and its end."""
    return line if len(line) <= characters else "…" + line[1 - characters :]


def children(tree: TreeView) -> list[list[int]]:
    """The children of each node of a tree whose parents are known, most probable first."""
    below: list[list[int]] = [[] for _ in tree.depths]
    if tree.parents is not None:
        for node in np.argsort(-tree.log_probs, kind="stable"):
            if node > 0:
                below[tree.parents[node]].append(int(node))
    return below


def levels(tree: TreeView) -> list[NDArray[np.intp]]:
    """The nodes of level 1 … ``draft_calls``, most probable first."""
    order = np.argsort(-tree.log_probs, kind="stable")
    return [order[tree.depths[order] == level] for level in range(1, tree.draft_calls + 1)]


def as_text(scene: Scene) -> str:
    """The scene for a terminal, a log or a notebook: plain text, a line for each node of the tree.

    Behind each token stands its cumulative draft probability. ● marks the root and the accepted nodes, ○ the others,
    ◆ the bonus token. A trace knows its beams only: there a line is a level.
    """
    tree = scene.tree
    lines = [scene.headline]
    if scene.text is not None:
        lines.append(end_of(visible(scene.text, space=" "), 100))
    lines += ["", *(_beams(tree) if tree.parents is None else _branches(tree)), "", _balance(scene)]
    return "\n".join(lines)


def as_image(scene: Scene) -> NDArray[np.uint8]:
    """The scene as an image: [720, 1280, 3], whatever it shows."""
    from radar_rl.envs.drawing import draw, pixels  # matplotlib takes its time to import: only those who look pay it

    return pixels(draw(scene))


def _branches(tree: TreeView) -> list[str]:
    below = children(tree)
    names = names_of(tree) or ["token"] * len(below)
    on_path = np.zeros(len(below), dtype=np.bool_) if tree.path is None else tree.path
    # Text, not strings, which rich would search for markup.
    lines = [
        Text(f"{ON_PATH if on else OFF_PATH} {name}  {math.exp(log_prob):.3g}")
        for on, name, log_prob in zip(on_path, names, tree.log_probs, strict=True)
    ]
    branches = [Tree(line) for line in lines]
    for branch, nodes_below in zip(branches, below, strict=True):
        branch.children.extend(branches[child] for child in nodes_below)
    if tree.bonus and tree.path is not None:
        last = int(np.flatnonzero(tree.path)[-1])
        branches[last].children.insert(0, Tree(Text(f"{BONUS} {visible(tree.bonus)}  the target's own")))
    longest = max(len(name) for name in [*names, visible(tree.bonus)])
    out = StringIO()
    # Neither colours nor a notebook's display, and wide enough that no line is broken.
    width = 4 * (int(tree.depths.max()) + 2) + 2 * longest + 40
    console = Console(file=out, width=width, color_system=None, force_terminal=False, force_jupyter=False)
    console.print(branches[0])
    return [line.rstrip() for line in out.getvalue().splitlines()]


def _beams(tree: TreeView) -> list[str]:
    lines = [f"({NO_TOKENS})"]
    for level, nodes in enumerate(levels(tree), start=1):
        mark = ON_PATH if level <= (tree.accepted or 0) else OFF_PATH
        lines.append(f"{mark} level {level:<2}" + "".join(f"  {math.exp(tree.log_probs[i]):<8.3g}" for i in nodes))
    return [line.rstrip() for line in lines]


def _balance(scene: Scene) -> str:
    gained, paid, seconds = scene.gained[-1], scene.paid[-1], scene.seconds[-1]
    line = f"gained {gained:.2f} − paid {paid:.2f} = {gained - paid:+.2f} {scene.unit} in {seconds:.4g} s"
    speed = scene.tokens_per_second
    return line if speed is None else f"{line} · {speed:.4g} tokens per second"
