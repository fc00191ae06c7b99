"""The clairvoyant oracle: the fewest seconds that any choice of stopping depths could take, the future known.

A trace is an exact simulator (DESIGN §3.2), so backward dynamic programming over positions gives the optimum: it pays
for no decisions and bounds every policy.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import InputError


def oracle_depths(
    seconds: NDArray[np.float64], next_row: NDArray[np.integer], sequence: NDArray[np.integer]
) -> NDArray[np.int64]:
    """The stopping depth at every row from which the rest of the text is emitted in the fewest seconds.

    Args:
        seconds: [L] or [N, L], seconds (or any other cost) of a round that stops after call ℓ.
        next_row: [N, L], row at which the following round starts, −1 where the text ends; always a later row of the
            same sequence.
        sequence: [N], the sequence of each row; the rows of a sequence are consecutive.

    Returns:
        [N] int64 in 1 … L; of equally fast depths the smallest.

    Raises:
        InputError: a next row does not lie after its row.
    """
    rows = np.arange(len(next_row))
    if np.any((next_row <= rows[:, None]) & (next_row >= 0)):
        raise InputError("next_row: a round must start after the one before it, or be −1")
    # Rows equally far from the end of their own sequence do not depend on each other: one step solves them all.
    last = np.flatnonzero(np.r_[sequence[1:] != sequence[:-1], True]) if len(rows) else rows
    lengths = np.diff(np.r_[-1, last])
    from_end = np.repeat(last, lengths) - rows
    order = np.argsort(from_end, kind="stable")
    bounds = np.searchsorted(from_end[order], np.arange(int(lengths.max(initial=0)) + 1))
    every = np.broadcast_to(seconds, next_row.shape)
    to_go = np.zeros(len(rows) + 1)  # the extra entry, index −1, is the end of a text
    depths = np.ones(len(rows), dtype=np.int64)
    for start, stop in pairwise(bounds):
        step = order[start:stop]
        totals = every[step] + to_go[next_row[step]]  # [rows of this step, L]
        depths[step] = totals.argmin(axis=1) + 1
        to_go[step] = totals.min(axis=1)
    return depths
