"""Behaviours: which decisions a trace is turned into. A trace says what every choice would bring, so we choose.

A decision is (row, depth, action): after ``depth`` draft calls of the round that starts at ``row``. At ``max_depth``
nothing is decided, so depths run from 1 to ``max_depth − 1``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.offline.hindsight import best_from, stopping_values
from radar_rl.offline.tuning import MEMORYLESS, looked_at, tune_rules, tune_static
from radar_rl.offline.walk import Outcomes, policy_depths
from radar_rl.policies.protocol import CONTINUE, STOP, Policy


@dataclass(frozen=True)
class DecisionTable:
    """M decisions, written out.

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

    def take(self, index: NDArray[np.integer]) -> "DecisionTable":
        """Some of the decisions: [B] → B of them."""
        weight = None if self.weight is None else self.weight[index]
        return DecisionTable(self.row[index], self.depth[index], self.action[index], weight)

    @classmethod
    def gathered(cls, parts: "Iterable[DecisionTable]", most: int) -> "DecisionTable":
        """Parts one after the other, ``most`` decisions at most.

        Room is made once, for the most there can be: pages that nothing is written to take no memory, and the parts
        never lie twice in it.
        """
        row, depth, action = np.empty(most, np.int32), np.empty(most, np.int8), np.empty(most, np.int8)
        weight = np.empty(most, np.float32)
        filled, weighted = 0, False
        for part in parts:
            here = slice(filled, filled + len(part))
            row[here], depth[here], action[here] = part.row, part.depth, part.action
            if part.weight is not None:
                weight[here], weighted = part.weight, True
            filled += len(part)
        return cls(row[:filled], depth[:filled], action[:filled], weight[:filled] if weighted else None)


@dataclass(frozen=True)
class EveryDecision:
    """Both actions at every state of some rows: counted, not written out.

    Attributes:
        rows: [R] int32, rows of the trace.
        max_depth: draft calls a round can make.
        weight: None: all are drawn alike.
    """

    rows: NDArray[np.int32]
    max_depth: int
    weight: None = None

    def __len__(self) -> int:
        return len(self.rows) * (self.max_depth - 1) * 2

    def take(self, index: NDArray[np.integer]) -> DecisionTable:
        """Some of the decisions, which go by row, depth and action: [B] → B of them."""
        state, action = np.divmod(index, 2)  # STOP and CONTINUE are 0 and 1
        row, depth = np.divmod(state, self.max_depth - 1)
        return DecisionTable(self.rows[row], (depth + 1).astype(np.int8), action.astype(np.int8))


Decisions = DecisionTable | EveryDecision


def _full(outcomes: Outcomes, rng: np.random.Generator) -> EveryDecision:
    """Both actions at every state: no behaviour policy, hence none of its bias."""
    return EveryDecision(np.flatnonzero(~outcomes.trace.censored).astype(np.int32), outcomes.max_depth)


def _uniform(outcomes: Outcomes, rng: np.random.Generator) -> DecisionTable:
    """Each row's round stops at a depth drawn uniformly from 1 … max_depth: what an exploring server would log."""
    depths = rng.integers(1, outcomes.max_depth + 1, size=len(outcomes.trace)).astype(np.int8)
    return stopping_at(outcomes, depths)


def _static(outcomes: Outcomes, rng: np.random.Generator) -> DecisionTable:
    """Every round stops at the fastest static depth: what most servers log today. One action at every state."""
    depth = tune_static(outcomes).static.depth
    return stopping_at(outcomes, np.full(len(outcomes.trace), depth, dtype=np.int8))


def _mixture(outcomes: Outcomes, rng: np.random.Generator) -> DecisionTable:
    """Each row's round is played by one of the tuned memoryless rules, static depth among them, drawn uniformly."""
    tuned = tune_rules(outcomes, [name for name in MEMORYLESS if looked_at(name) <= set(outcomes.trace.features)])
    rules: list[Policy] = [tuned.static, *tuned.rules]
    drawn = rng.integers(len(rules), size=len(outcomes.trace))
    depths = np.empty(len(outcomes.trace), dtype=np.int8)
    for number, rule in enumerate(rules):
        depths = np.where(drawn == number, policy_depths(outcomes, rule), depths)
    return stopping_at(outcomes, depths)


def _oracle(outcomes: Outcomes, rng: np.random.Generator) -> DecisionTable:
    """At every state what the clairvoyant optimum would do from there on, drawn in proportion to what is at stake.

    An imitator cannot see the future, so it learns the majority of the oracle's choices. Weighting each by the seconds
    that the other choice would lose makes the majority the choice with the smaller expected loss; unweighted, many
    cheap early stops outvote the few long rounds that make the difference.
    """

    def of(piece: slice, some: Outcomes) -> DecisionTable:
        totals = stopping_values(some.seconds, some.next_row, some.trace.sequence)  # [n, max_depth]
        gain = totals[:, :-1] - best_from(totals)[:, 1:]  # [n, max_depth - 1] seconds that continuing after ℓ saves
        row, column = np.nonzero((gain != 0.0) & ~some.trace.censored[:, None])
        saved = gain[row, column]
        return DecisionTable(
            (piece.start + row).astype(np.int32),
            (column + 1).astype(np.int8),
            np.where(saved > 0.0, CONTINUE, STOP).astype(np.int8),
            np.abs(saved).astype(np.float32),
        )

    most = int((~outcomes.trace.censored).sum()) * (outcomes.max_depth - 1)
    return DecisionTable.gathered((of(piece, some) for piece, some in outcomes.pieces()), most)


Behaviour = Literal["full", "uniform", "static", "mixture", "oracle"]
BEHAVIOURS: dict[Behaviour, Callable[[Outcomes, np.random.Generator], Decisions]] = {
    "full": _full,
    "uniform": _uniform,
    "static": _static,
    "mixture": _mixture,
    "oracle": _oracle,
}


def stopping_at(outcomes: Outcomes, depths: NDArray[np.integer]) -> DecisionTable:
    """The decisions of rounds that start at every uncensored row and stop after ``depths`` [N] calls."""
    step = np.arange(1, outcomes.max_depth)

    def of(piece: slice) -> DecisionTable:
        stops = depths[piece]
        made = (step <= stops[:, None]) & ~outcomes.trace.censored[piece, None]  # [n, max_depth - 1]
        row, column = np.nonzero(made)
        action = np.where(step[column] < stops[row], CONTINUE, STOP)
        return DecisionTable((piece.start + row).astype(np.int32), step[column].astype(np.int8), action.astype(np.int8))

    most = int(outcomes.decisions(depths[~outcomes.trace.censored]).sum())
    return DecisionTable.gathered((of(piece) for piece in outcomes.trace.pieces()), most)


def decide(behaviour: Behaviour, outcomes: Outcomes, seed: int) -> Decisions:
    """The decisions that a named behaviour takes at the uncensored rows of a trace.

    Args:
        behaviour: ``full`` (both actions at every state), ``uniform`` (stopping depth uniform in 1 … max_depth),
            ``static`` (the fastest static depth), ``mixture`` (one of the tuned memoryless rules, drawn for each row)
            or ``oracle`` (the clairvoyant optimum, weighted by what is at stake).
        outcomes: what stopping brings.
        seed: of the draws of ``uniform`` and ``mixture``.

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
