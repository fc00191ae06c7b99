"""Accepted history: how the last rounds of a text went, newest first; what the feature ``history`` holds.

The one definition: live decoding, replays, walks and training all add their rounds here.
"""

import numpy as np
from numpy.typing import NDArray

History = NDArray[np.int8]

ROUNDS = 4
NO_ROUND = -1
MOST = 127


def no_rounds(*texts: int) -> History:
    """The history of texts that begin: [*texts, ROUNDS] int8."""
    return np.full((*texts, ROUNDS), NO_ROUND, dtype=np.int8)


def after_round(history: History, accepted: int | NDArray[np.integer]) -> History:
    """The history one round on, a new array.

    Args:
        history: [..., ROUNDS], newest first.
        accepted: [...] draft tokens accepted in the round; more than ``MOST`` count as that.

    Returns:
        [..., ROUNDS] int8.
    """
    longer = np.empty_like(history)
    longer[..., 0] = np.minimum(accepted, MOST)
    longer[..., 1:] = history[..., :-1]
    return longer
