"""Shaping: rewards measured against what the clairvoyant optimum would have made of the same text.

A trace knows the outcome of every choice, so how good a text turned out is no news about an action. Subtracting it is
potential-based shaping (Ng, Harada & Russell 1999) with the clairvoyant optimum's value as potential Φ:
r + Φ(s') − Φ(s) moves the values of both actions of a state by the same amount, so no preference changes, but what is
left is an action's regret, and the spread of whole texts no longer drowns differences of a tenth of a token.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from radar_rl.offline.hindsight import best_from, stopping_values
from radar_rl.offline.transitions import Episode, Transitions
from radar_rl.offline.walk import Outcomes
from radar_rl.rollouts.reward import Reward


def potential(outcomes: Outcomes, reward: Reward, episode: Episode) -> NDArray[np.float32]:
    """Φ of every decision state: the reward that the clairvoyant optimum has still to come.

    With texts as episodes the mean of Φ per token to come is taken off, so that it is near zero wherever a text stands:
    how long a text will be is hidden from a policy, and would come back as noise.

    Returns:
        [N, max_depth - 1] float32.
    """
    stopping = reward.stopping(outcomes.hardware, outcomes.nodes, outcomes.emitted)  # [N, L]
    paid = np.cumsum(np.append(0.0, reward.going(outcomes.hardware, outcomes.max_depth)))  # [L] by continuing
    next_row = outcomes.next_row if episode == "sequence" else np.full_like(outcomes.next_row, -1)
    values = -best_from(stopping_values(-(stopping + paid), next_row, outcomes.trace.sequence)) - paid
    if episode == "sequence":
        remaining = outcomes.trace.remaining
        values -= (values[:, 0].sum() / remaining.sum()) * remaining[:, None]
    return np.asarray(values[:, :-1], dtype=np.float32)


def shaped(transitions: Transitions, phi: NDArray[np.float32]) -> Transitions:
    """The transitions with r + Φ(s') − Φ(s) for r; Φ after the last state is zero.

    Args:
        transitions: to be shaped.
        phi: [N, max_depth - 1], what ``potential`` returned.
    """
    before = phi[transitions.row, transitions.depth - 1]
    after = np.where(transitions.terminal, 0.0, phi[transitions.next_row, transitions.next_depth - 1])
    return replace(transitions, reward=(transitions.reward + after - before).astype(np.float32))
