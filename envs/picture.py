"""Pictures of an episode: the draft tree of the newest step, and what the steps so far have gained and cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.rollouts.view import TreeView


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


def as_text(scene: Scene) -> str:
    """The scene for a terminal."""
    raise NotImplementedError


def as_image(scene: Scene) -> NDArray[np.uint8]:
    """The scene as an image: [height, width, 3], always of the same size."""
    raise NotImplementedError
