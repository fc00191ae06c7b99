"""Shaping: rewards measured against what the clairvoyant optimum would have made of the same text.

A trace knows the outcome of every choice, so how good a text turned out is no news about an action. Subtracting it is
potential-based shaping (Ng, Harada & Russell 1999) with the clairvoyant optimum's value as potential Φ:
r + Φ(s') − Φ(s) moves the values of both actions of a state by the same amount, so no preference changes, but what is
left is an action's regret, and the spread of whole texts no longer drowns differences of a tenth of a token.
"""

import numpy as np
from numpy.typing import NDArray

from radar_rl.offline.hindsight import best_from, stopping_values
from radar_rl.offline.returns import round_rewards
from radar_rl.offline.transitions import Episode
from radar_rl.offline.walk import Outcomes
from radar_rl.rollouts.reward import Reward


def potential(outcomes: Outcomes, reward: Reward, episode: Episode, worth: float | None = None) -> NDArray[np.float32]:
    """Φ of every decision state: the reward that the clairvoyant optimum has still to come.

    With texts as episodes the mean of Φ per token to come is taken off, so that it is near zero wherever a text stands:
    how long a text will be is hidden from a policy, and would come back as noise.

    Args:
        outcomes: what stopping brings.
        reward: what an action earns.
        episode: ``sequence`` or ``round``.
        worth: that mean; None: of these outcomes.

    Returns:
        [N, max_depth - 1] float32.
    """
    phi = np.empty((len(outcomes.trace), outcomes.max_depth - 1), dtype=np.float32)
    if worth is None:
        worth = token_worth(outcomes, reward, episode)
    for piece, some in outcomes.pieces():
        values = _to_come(some, reward, episode)
        if episode == "sequence":
            values -= worth * some.trace.remaining[:, None]
        phi[piece] = values[:, :-1]
    return phi


def token_worth(outcomes: Outcomes, reward: Reward, episode: Episode) -> float:
    """Mean reward to the clairvoyant optimum of a token to come; 0 where episodes are rounds, which are all alike."""
    if episode == "round":
        return 0.0
    # A pass of its own: keeping the values in double precision until their mean is known would take twice Φ's room.
    first = np.concatenate([_to_come(some, reward, episode)[:, 0] for _, some in outcomes.pieces()])
    return float(first.sum() / sum(int(some.trace.remaining.sum()) for _, some in outcomes.pieces()))


def _to_come(outcomes: Outcomes, reward: Reward, episode: Episode) -> NDArray[np.float64]:
    """The clairvoyant optimum's reward to come after call 1 … L of the rounds that start at every row: [N, L]."""
    paid = np.cumsum(np.append(0.0, reward.going(outcomes.hardware, outcomes.max_depth)))  # [L] by continuing
    next_row = outcomes.next_row if episode == "sequence" else np.full_like(outcomes.next_row, -1)
    return np.asarray(
        -best_from(stopping_values(-round_rewards(outcomes, reward), next_row, outcomes.trace.sequence)) - paid
    )
