"""Accepted history at every row of a trace, which only a walk can tell: what training reads as a column.

A trace holds no history, as it depends on where earlier rounds stopped. Under given stopping depths each text is one
walk. A row where one of its rounds begins has that walk's history. A row that the walk jumps over has the history that
it would have if the round in which it lies had ended there: accepted are the tokens since that round's root, less one.
So every row of the table can be learned from, but the history is the named walk's, not that of the policy that is
learned and will walk otherwise; a learner that comes to know its own policy's depths can look back along those.
"""

import numpy as np
from numpy.typing import NDArray

from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.history import MOST, NO_ROUND, ROUNDS, History, no_rounds


def history_along(trace: Trace, depths: NDArray[np.integer]) -> History:
    """The history at every row, under a walk.

    Args:
        trace: the rows.
        depths: [N] in 1 … L, calls after which a round that starts at the row stops; only those of rows that the walk
            comes to are of account.

    Returns:
        [N, ROUNDS] int8, as the feature ``history``.
    """
    history = no_rounds(len(trace))
    for piece in trace.pieces():
        some = trace.rows_of(piece)
        history[piece] = _look_back(roots(some, depths[piece]), some.first_row)
    return history


def roots(trace: Trace, depths: NDArray[np.integer]) -> NDArray[np.bool_]:
    """At which rows the rounds of a walk with these ``depths`` [N] begin: [N] bool."""
    begins = np.zeros(len(trace), dtype=np.bool_)
    for rows, _, _ in trace.rounds(depths):
        begins[rows] = True
    return begins


def _look_back(begins: NDArray[np.bool_], first_row: NDArray[np.int64]) -> History:
    """From each row to the newest root before it, and from there on: [n] bool, [texts] → [n, ROUNDS]."""
    rows = np.arange(len(begins))
    newest = np.maximum.accumulate(np.where(begins, rows, -1))
    before = np.append(-1, newest[:-1])
    before[first_row] = -1  # nor does a text look into another one
    history, here = no_rounds(len(begins)), rows
    for age in range(ROUNDS):
        root = np.where(here >= 0, before[here], -1)
        history[:, age] = np.where(root >= 0, np.minimum(here - root - 1, MOST), NO_ROUND)
        here = root
    return history
