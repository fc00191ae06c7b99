"""What a policy may look at in the middle of a round."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Confidences = NDArray[np.float16]


class DraftState:
    """The newest draft tree as a policy sees it.

    Attributes:
        position: index of the root token in prompt + completion.
        depth: draft calls made in this round, 1 … max_depth.
        max_depth: draft calls the round may make.
        confidences: [max_depth, top_k] float16, the cumulative draft log-probabilities of each level's beam, sorted
            descending; rows from ``depth`` on are not filled. Live, they are read from the device when a policy
            looks at them; one that never looks costs no read.
    """

    __slots__ = ("_confidences", "depth", "max_depth", "position")

    def __init__(
        self, position: int, depth: int, max_depth: int, confidences: Confidences | Callable[[], Confidences]
    ) -> None:
        self.position, self.depth, self.max_depth = position, depth, max_depth
        self._confidences = confidences

    @property
    def confidences(self) -> Confidences:
        """See the class."""
        if not isinstance(self._confidences, np.ndarray):
            self._confidences = self._confidences()
        return self._confidences
