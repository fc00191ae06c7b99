"""Exact returns: what every stopping depth of every round is worth, since a trace knows all their outcomes."""

import numpy as np
from numpy.typing import NDArray

from radar_rl.offline.hindsight import total
from radar_rl.offline.transitions import Episode
from radar_rl.offline.walk import Outcomes
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.trace import Trace


def stopping_returns(
    outcomes: Outcomes, reward: Reward, episode: Episode, depths: NDArray[np.integer]
) -> NDArray[np.float32]:
    """The return of a round that starts at each row and stops after each call, and of what follows it.

    Args:
        outcomes: what stopping brings.
        reward: what an action earns.
        episode: ``sequence``: the rounds that follow, up to the end of the text, stop at ``depths``; ``round``: nothing
            follows.
        depths: [N] in 1 … L.

    Returns:
        [N, L] float32, less the mean of each row: all that matters is which depth is better by how much.
    """
    returns = np.empty((len(outcomes.trace), outcomes.max_depth), dtype=np.float32)
    for piece, some in outcomes.pieces():
        earned = round_rewards(some, reward)
        if episode == "sequence":
            rows, chosen = np.arange(len(earned)), depths[piece] - 1
            to_come = total(earned[rows, chosen], some.next_row[rows, chosen])
            earned = earned + np.append(to_come, 0.0)[some.next_row]  # index −1 is the end of a text
        returns[piece] = earned - earned.mean(axis=1, keepdims=True)
    return returns


def round_rewards(outcomes: Outcomes, reward: Reward, paid: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """The sum of a round's rewards when it stops after call 1 … L: [N, L] float64; ``paid`` as ``Reward`` has it."""
    going = np.append(0.0, reward.going(outcomes.hardware, outcomes.max_depth, paid))
    return np.asarray(reward.stopping(outcomes.hardware, outcomes.nodes, outcomes.emitted, paid) + np.cumsum(going))


def start_rows(trace: Trace, episode: Episode) -> NDArray[np.int64]:
    """Rows whose rounds begin an episode: the first of each text, or every row that is not censored; [S] int64."""
    return trace.first_row if episode == "sequence" else np.flatnonzero(~trace.censored)


def policy_values(
    outcomes: Outcomes, reward: Reward, episode: Episode, depths: NDArray[np.integer], paid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The value of a policy at the state after call 1 of each episode, exactly.

    Args:
        outcomes: what stopping brings.
        reward: what an action earns.
        episode: ``sequence`` or ``round``.
        depths: [N] in 1 … L, where the policy stops.
        paid: [L], after which calls it pays for a decision (``Outcomes.paid``).

    Returns:
        [S] float64, the return of the episodes that start at ``start_rows``.
    """
    values = np.empty(len(depths))
    for piece, some in outcomes.pieces():
        rows, chosen = np.arange(len(some.trace)), depths[piece] - 1
        earned = round_rewards(some, reward, paid)[rows, chosen]
        values[piece] = total(earned, some.next_row[rows, chosen]) if episode == "sequence" else earned
    return values[start_rows(outcomes.trace, episode)]
