"""Transitions: decisions with what they earn and where they lead, as indices; observations are built later."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.offline.behaviour import Decisions
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.protocol import CONTINUE
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.trace import Trace

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

    def take(self, index: NDArray[np.integer] | slice) -> "Transitions":
        """Some of the transitions: [B] → B of them."""
        taken = {name: getattr(self, name)[index] for name in self.__dataclass_fields__ if name != "weight"}
        return Transitions(**taken, weight=None if self.weight is None else self.weight[index])


class TransitionSource(Protocol):
    """Transitions that can be counted, weighed and taken; written out or made when taken."""

    @property
    def weight(self) -> NDArray[np.float32] | None:
        """[M] float32, how often to draw each; None: all alike."""

    def __len__(self) -> int:
        """How many there are, M."""

    def take(self, index: NDArray[np.integer]) -> Transitions:
        """Some of the transitions: [B] → B of them."""


def check_episode(episode: str) -> None:
    """Refuse what is not an ``Episode``.

    Raises:
        ConfigError: names the valid ones.
    """
    if episode not in get_args(Episode):
        raise ConfigError(f"unknown episode {episode!r}; valid: {', '.join(get_args(Episode))}")


@dataclass(frozen=True)
class TraceTransitions:
    """The transitions of decisions over a trace, priced when they are taken: a decision's few bytes are all they hold.

    At ``max_depth`` only stop has effect, so that is no decision: continuing after ``max_depth − 1`` calls makes the
    last call, stops, earns both rewards and leads to the next round. With γ = 1 values are the same, and no learner
    has to be told about a masked action.

    Attributes:
        trace: the rows.
        decisions: where which action is taken.
        going: [max_depth − 1] float64, reward of continuing after call ℓ.
        stopping: [max_depth + 2, max_depth] float64, reward of stopping after call ℓ with so many tokens emitted.
        episode: ``sequence`` (rounds follow each other up to the end of the text) or ``round`` (a stop ends it).
        phi: [N, max_depth − 1] float32, potential of each state that shapes the rewards (``shaping``); None: plain.
    """

    trace: Trace
    decisions: Decisions
    going: NDArray[np.float64]
    stopping: NDArray[np.float64]
    episode: Episode
    phi: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        outcomes: Outcomes,
        decisions: Decisions,
        reward: Reward,
        episode: Episode,
        phi: NDArray[np.float32] | None = None,
        paid: NDArray[np.bool_] | None = None,
    ) -> "TraceTransitions":
        """What decisions earn and where they lead.

        Args:
            outcomes: what stopping brings, and on which machine.
            decisions: where which action is taken.
            reward: what an action earns.
            episode, phi: see the class.
            paid: [max_depth], after which calls a decision is paid for (``Outcomes.paid``); None: after all.

        Raises:
            ConfigError: ``episode`` is unknown.
        """
        check_episode(episode)
        depth = outcomes.max_depth
        emitted = np.broadcast_to(np.arange(depth + 2)[:, None], (depth + 2, depth))
        stopping = reward.stopping(outcomes.hardware, outcomes.nodes, emitted, paid)
        return cls(outcomes.trace, decisions, reward.going(outcomes.hardware, depth, paid), stopping, episode, phi)

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def weight(self) -> NDArray[np.float32] | None:
        """[M] float32, how often to draw each; None: all alike."""
        return self.decisions.weight

    def take(self, index: NDArray[np.integer]) -> Transitions:
        """Some of the transitions: [B] → B of them."""
        taken = self.decisions.take(index)
        max_depth = len(self.going) + 1
        row, depth = taken.row, taken.depth.astype(np.int64)
        continues = taken.action == CONTINUE
        stops_at = np.where(continues, max_depth, depth)  # where it stops if it stops now
        stops = ~continues | (depth == max_depth - 1)
        emitted, following = self.trace.stop(row, stops_at)
        earned = np.where(continues, self.going[depth - 1], 0.0)
        earned += np.where(stops, self.stopping[emitted, stops_at - 1], 0.0)
        next_row = np.where(stops, -1 if self.episode == "round" else following, row)
        plain = Transitions(
            row=row,
            depth=taken.depth,
            action=taken.action,
            reward=earned.astype(np.float32),
            next_row=next_row.astype(np.int32),
            next_depth=np.where(stops, 1, depth + 1).astype(np.int8),
            terminal=next_row < 0,
            weight=taken.weight,
        )
        return plain if self.phi is None else shaped(plain, self.phi)


def shaped(transitions: Transitions, phi: NDArray[np.float32]) -> Transitions:
    """The transitions with r + Φ(s') − Φ(s) for r; Φ after the last state is zero.

    Args:
        transitions: to be shaped.
        phi: [N, max_depth - 1], potential of each state.
    """
    before = phi[transitions.row, transitions.depth - 1]
    after = np.where(transitions.terminal, 0.0, phi[transitions.next_row, transitions.next_depth - 1])
    return replace(transitions, reward=(transitions.reward + after - before).astype(np.float32))
