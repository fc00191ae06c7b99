"""Hindsight: what every choice would have led to if all later ones were the best, the future known."""

import numpy as np
from numpy.typing import NDArray

from radar_rl.policies.oracle import oracle_depths


def stopping_values(
    cost: NDArray[np.float64], next_row: NDArray[np.integer], sequence: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Total cost to the end when stopping after each depth now and at the best depths from then on.

    Args:
        cost: [L] or [N, L], cost of a round that stops after call ℓ.
        next_row: [N, L], row of the following round, −1 at the end.
        sequence: [N], the sequence of each row.

    Returns:
        [N, L] float64.
    """
    every = np.broadcast_to(cost, next_row.shape)
    depths = oracle_depths(every, next_row, sequence)
    rows = np.arange(len(depths))
    to_go = total(every[rows, depths - 1], next_row[rows, depths - 1])
    return np.asarray(every + np.append(to_go, 0.0)[next_row])  # index −1 is the end of a text


def total(of_round: NDArray[np.float64], following: NDArray[np.integer]) -> NDArray[np.float64]:
    """Sums over the rounds from each row to the end of its text.

    Args:
        of_round: [N], what the round that starts at each row adds.
        following: [N], row at which the next round starts, −1 at the end.

    Returns:
        [N] float64.
    """
    # By pointer doubling: each pass doubles how many rounds a row's sum covers. The last entry, which index −1 finds,
    # is the end of a text.
    sums, following = np.append(of_round, 0.0), np.append(following, -1)
    while (following >= 0).any():
        sums += sums[following]
        following = following[following]
    return np.asarray(sums[:-1])


def best_from(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest cost of stopping after call ℓ or later: [N, L] → [N, L]."""
    return np.minimum.accumulate(values[:, ::-1], axis=1)[:, ::-1]
