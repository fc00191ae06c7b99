"""A draft tree as one looks at it: what the environments draw."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TreeView:
    """The tree of a round, root first, parents before children.

    Live it is the tree that verification would see now, or has seen. A trace holds neither tokens nor parents: there
    it is the beam of every level drafted, best first.

    Attributes:
        depths: [n] int64, distance from the root.
        log_probs: [n] float32, cumulative draft log-probabilities; 0 for the root.
        parents: [n] int64, −1 for the root; None where they are not known.
        labels: each node's token as text; None where the tokens are not known.
        draft_calls: levels drafted.
        accepted: draft tokens accepted, None before verification.
        emitted: tokens that the round added to the text, None before verification.
        path: [n] bool, root and accepted nodes; None before verification and where the nodes are not known.
        bonus: the target's own token behind the accepted ones as text; empty where it is not known or was cut off.
    """

    depths: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    parents: NDArray[np.int64] | None
    labels: tuple[str, ...] | None
    draft_calls: int
    accepted: int | None = None
    emitted: int | None = None
    path: NDArray[np.bool_] | None = None
    bonus: str = ""
