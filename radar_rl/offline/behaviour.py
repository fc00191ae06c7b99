"""Behaviours: which decisions a trace is turned into. A trace says what every choice would bring, so we choose.

A decision is (row, depth, action): after ``depth`` draft calls of the round that starts at ``row``. At ``max_depth``
nothing is decided, so depths run from 1 to ``max_depth − 1``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.offline.hindsight import best_from, stopping_values
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.protocol import CONTINUE, STOP


@dataclass(frozen=True)
class Decisions:
    """M decisions.

    Attributes:
        row: [M] int32, row of the trace.
        depth: [M] int8, draft calls made, 1 … max_depth − 1.
        action: [M] int8, STOP or CONTINUE.
        weight: [M] float32, how often to draw each; None: all alike.
    """

    row: NDArray[np.int32]
    depth: NDArray[np.int8]
    action: NDArray[np.int8]
    weight: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.row)


def _full(outcomes: Outcomes, rng: np.random.Generator) -> Decisions:
    """Both actions at every state: no behaviour policy, hence none of its bias."""
    rows = np.flatnonzero(~outcomes.trace.censored).astype(np.int32)
    depths = np.arange(1, outcomes.max_depth, dtype=np.int8)
    actions = np.array([STOP, CONTINUE], dtype=np.int8)
    row, depth, action = np.meshgrid(rows, depths, actions, indexing="ij")
    return Decisions(row.ravel(), depth.ravel(), action.ravel())


def _uniform(outcomes: Outcomes, rng: np.random.Generator) -> Decisions:
    """Each row's round stops at a depth drawn uniformly from 1 … max_depth: what an exploring server would log."""
    return stopping_at(outcomes, rng.integers(1, outcomes.max_depth + 1, size=len(outcomes.trace)))


def _oracle(outcomes: Outcomes, rng: np.random.Generator) -> Decisions:
    """At every state what the clairvoyant optimum would do from there on, drawn in proportion to what is at stake.

    An imitator cannot see the future, so it learns the majority of the oracle's choices. Weighting each by the seconds
    that the other choice would lose makes the majority the choice with the smaller expected loss; unweighted, many
    cheap early stops outvote the few long rounds that make the difference.
    """
    totals = stopping_values(outcomes.seconds, outcomes.next_row, outcomes.trace.sequence)  # [N, max_depth]
    gain = totals[:, :-1] - best_from(totals)[:, 1:]  # [N, max_depth - 1] seconds that continuing after ℓ saves
    row, column = np.nonzero((gain != 0.0) & ~outcomes.trace.censored[:, None])
    saved = gain[row, column]
    return Decisions(
        row.astype(np.int32),
        (column + 1).astype(np.int8),
        np.where(saved > 0.0, CONTINUE, STOP).astype(np.int8),
        np.abs(saved).astype(np.float32),
    )


Behaviour = Literal["full", "uniform", "oracle"]
BEHAVIOURS: dict[Behaviour, Callable[[Outcomes, np.random.Generator], Decisions]] = {
    "full": _full,
    "uniform": _uniform,
    "oracle": _oracle,
}


def stopping_at(outcomes: Outcomes, depths: NDArray[np.int64]) -> Decisions:
    """The decisions of rounds that start at every uncensored row and stop after ``depths`` [N] calls."""
    step = np.arange(1, outcomes.max_depth)
    made = (step <= depths[:, None]) & ~outcomes.trace.censored[:, None]  # [N, max_depth - 1]
    row, column = np.nonzero(made)
    action = np.where(step[column] < depths[row], CONTINUE, STOP)
    return Decisions(row.astype(np.int32), step[column].astype(np.int8), action.astype(np.int8))


def decide(behaviour: Behaviour, outcomes: Outcomes, seed: int) -> Decisions:
    """The decisions that a named behaviour takes at the uncensored rows of a trace.

    Args:
        behaviour: ``full`` (both actions at every state), ``uniform`` (stopping depth uniform in 1 … max_depth) or
            ``oracle`` (the clairvoyant optimum, weighted by what is at stake).
        outcomes: what stopping brings.
        seed: of the draws of ``uniform``.

    Raises:
        ConfigError: the behaviour is unknown, or there is nothing to decide (``max_depth`` 1, every row censored).
    """
    if behaviour not in BEHAVIOURS:
        raise ConfigError(f"unknown behaviour {behaviour!r}; valid: {', '.join(BEHAVIOURS)}")
    if outcomes.max_depth < 2:
        raise ConfigError("a trace with max_depth 1 leaves nothing to decide; collect with a larger max_depth")
    decisions = BEHAVIOURS[behaviour](outcomes, np.random.default_rng(seed))
    if not len(decisions):
        raise ConfigError("every row of the training prompts is censored: collect longer texts (max_new_tokens)")
    return decisions
