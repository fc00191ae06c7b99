"""What a policy may look at in the middle of a round."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DraftState:
    """The newest draft tree as a policy sees it.

    Attributes:
        position: index of the root token in prompt + completion.
        depth: draft calls made in this round, 1 … max_depth.
        max_depth: draft calls the round may make.
        confidences: [max_depth, top_k] float16, the cumulative draft log-probabilities of each level's beam, sorted
            descending; rows from ``depth`` on are not filled.
    """

    position: int
    depth: int
    max_depth: int
    confidences: NDArray[np.float16]
