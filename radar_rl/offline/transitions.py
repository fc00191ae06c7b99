"""Transitions: decisions with what they earn and where they lead, as index arrays; observations are built later."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.offline.behaviour import Decisions
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.protocol import CONTINUE
from radar_rl.rollouts.reward import Reward

Episode = Literal["sequence", "round"]


@dataclass(frozen=True)
class Transitions:
    """M transitions between decision states (row, depth).

    Attributes:
        row, depth: [M] int32 and int8, the state in which the action is taken.
        action: [M] int8, STOP or CONTINUE.
        reward: [M] float32.
        next_row, next_depth: [M] int32 and int8, the state that follows; (−1, 1) after the last.
        terminal: [M] bool, whether the episode ends.
        weight: [M] float32, how often to draw each; None: all alike.
    """

    row: NDArray[np.int32]
    depth: NDArray[np.int8]
    action: NDArray[np.int8]
    reward: NDArray[np.float32]
    next_row: NDArray[np.int32]
    next_depth: NDArray[np.int8]
    terminal: NDArray[np.bool_]
    weight: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.row)


def check_episode(episode: str) -> None:
    """Refuse what is not an ``Episode``.

    Raises:
        ConfigError: names the valid ones.
    """
    if episode not in get_args(Episode):
        raise ConfigError(f"unknown episode {episode!r}; valid: {', '.join(get_args(Episode))}")


def transitions_of(outcomes: Outcomes, decisions: Decisions, reward: Reward, episode: Episode) -> Transitions:
    """What decisions earn and where they lead.

    At ``max_depth`` only stop has effect, so that is no decision: continuing after ``max_depth − 1`` calls makes the
    last call, stops, earns both rewards and leads to the next round. With γ = 1 values are the same, and no learner
    has to be told about a masked action.

    Args:
        outcomes: what stopping brings.
        decisions: where which action is taken.
        reward: what an action earns.
        episode: ``sequence`` (rounds follow each other up to the end of the text) or ``round`` (a stop ends it).

    Raises:
        ConfigError: ``episode`` is unknown.
    """
    check_episode(episode)
    max_depth = outcomes.max_depth
    going = reward.going(outcomes.hardware, max_depth)  # [max_depth - 1]
    stopping = reward.stopping(outcomes.hardware, outcomes.nodes, outcomes.emitted)  # [N, max_depth]
    row, depth = decisions.row, decisions.depth.astype(np.int64)
    continues = decisions.action == CONTINUE
    stops_at = np.where(continues, max_depth, depth)  # where it stops if it stops now
    stops = ~continues | (depth == max_depth - 1)
    earned = np.where(continues, going[depth - 1], 0.0) + np.where(stops, stopping[row, stops_at - 1], 0.0)
    next_row = np.where(stops, outcomes.next_row[row, stops_at - 1], row)
    if episode == "round":
        next_row = np.where(stops, -1, next_row)
    return Transitions(
        row=row,
        depth=decisions.depth,
        action=decisions.action,
        reward=earned.astype(np.float32),
        next_row=next_row.astype(np.int32),
        next_depth=np.where(stops, 1, depth + 1).astype(np.int8),
        terminal=next_row < 0,
        weight=decisions.weight,
    )
