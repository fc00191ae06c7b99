"""Walks: the exact replay of a policy over the texts of a trace (DESIGN: a trace is an exact simulator).

A run of any policy over a text is a walk over rows of the table: the round at row t stops after some call ℓ, emits what
the trace says, and the next round starts that many rows on. All sequences walk in step, so the loop is over rounds.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import TraceError
from radar_rl.offline.history import history_along, roots
from radar_rl.policies.oracle import oracle_depths
from radar_rl.policies.protocol import STOP, MemorylessPolicy, Policy, States
from radar_rl.policies.switching import SwitchingPolicy
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.features import columns_of
from radar_rl.speculative.hardware import HardwareProfile, tree_nodes
from radar_rl.speculative.history import History, after_round, no_rounds
from radar_rl.speculative.reading import features_after
from radar_rl.speculative.state import DraftState


@dataclass(frozen=True)
class Outcomes:
    """What stopping after call 1 … L brings at each of the N rows of a trace, on one machine.

    ``emitted`` and ``next_row`` are tables of all rows, made when first asked for: of a large trace, take ``pieces``.

    Attributes:
        trace: the rows.
        hardware: the machine.
        nodes: [L] int64, nodes verified when stopping after call ℓ.
        seconds: [L] float64, seconds of a round that stops after call ℓ and pays for no decision.
    """

    trace: Trace
    hardware: HardwareProfile
    nodes: NDArray[np.int64]
    seconds: NDArray[np.float64]

    @classmethod
    def of(cls, trace: Trace, hardware: HardwareProfile) -> "Outcomes":
        """The outcomes of a trace, at the tree size that it was read for.

        Args:
            trace: what would be accepted.
            hardware: what it would cost.

        Raises:
            TraceError: the trace has no rows.
        """
        if not len(trace):
            raise TraceError("the trace has no rows: nothing to replay; collect more prompts or change the split")
        made = trace.settings
        nodes = tree_nodes(made.max_depth, made.top_k, made.tree_size, trace.widen_first_level)
        return cls(trace, hardware, nodes, hardware.round_seconds(nodes))

    @property
    def accepted(self) -> NDArray[np.uint8]:
        """[N, L], draft tokens accepted."""
        return self.trace.accepted

    @cached_property
    def emitted(self) -> NDArray[np.int32]:
        """[N, L], tokens emitted."""
        return np.minimum(self.accepted.astype(np.int32) + 1, self.trace.remaining[:, None])

    @cached_property
    def next_row(self) -> NDArray[np.int32]:
        """[N, L], row at which the next round starts, −1 where the text ends."""
        following = np.arange(len(self.trace), dtype=np.int32)[:, None] + self.emitted
        return np.where(self.emitted == self.trace.remaining[:, None], np.int32(-1), following)

    def pieces(self) -> Iterator[tuple[slice, "Outcomes"]]:
        """The rows in pieces of whole texts, without copies: where each lies, and its outcomes, rows counted from 0."""
        for piece in self.trace.pieces():
            yield piece, Outcomes(self.trace.rows_of(piece), self.hardware, self.nodes, self.seconds)

    @property
    def max_depth(self) -> int:
        """Draft calls that a round may make, L."""
        return len(self.seconds)

    def paid(self, pays_decisions: bool, asks_from: int = 1) -> NDArray[np.bool_]:
        """After which of call 1 … L a policy pays for a decision: [L] bool.

        Args:
            pays_decisions: whether it pays for any.
            asks_from: the first draft call after which it decides.
        """
        call = np.arange(1, self.max_depth + 1)
        return np.asarray(pays_decisions & (call >= asks_from) & (call < self.max_depth))

    def decisions(self, depth: NDArray[np.integer]) -> NDArray[np.integer]:
        """Decisions made in rounds that stop after ``depth`` calls; at ``max_depth`` nothing is decided."""
        return np.asarray(np.minimum(depth, self.max_depth - 1))


@dataclass(frozen=True)
class Walk:
    """What a policy's run over each of the S texts came to; zeros for a text without rows.

    Attributes:
        emitted: [S] int64, tokens emitted after the first one (which prefill brings).
        seconds: [S] float64, seconds of the rounds; prefill not counted.
        rounds: [S] int64, verification forwards.
        draft_calls: [S] int64.
        accepted: [S] int64, draft tokens accepted.
        decisions: [S] int64, decisions paid for.
    """

    emitted: NDArray[np.int64]
    seconds: NDArray[np.float64]
    rounds: NDArray[np.int64]
    draft_calls: NDArray[np.int64]
    accepted: NDArray[np.int64]
    decisions: NDArray[np.int64]

    @property
    def tokens_per_second(self) -> float:
        """Total emitted tokens over total seconds."""
        return float(self.emitted.sum() / self.seconds.sum())

    @property
    def acceptance_length(self) -> float:
        """τ: emitted tokens per verification forward, as the EAGLE and RADAR tables count it."""
        return float(self.emitted.sum() / self.rounds.sum())

    @property
    def draft_calls_per_round(self) -> float:
        """Mean draft calls of a round."""
        return float(self.draft_calls.sum() / self.rounds.sum())

    def of_sequences(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "Walk":
        """The walk over some of the texts."""
        return Walk(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})


def walk(outcomes: Outcomes, depths: NDArray[np.integer], pays_decisions: bool, asks_from: int = 1) -> Walk:
    """Walk every text with a given stopping depth at every row.

    Args:
        outcomes: what stopping brings.
        depths: [N] in 1 … L, calls after which a round that starts at the row stops.
        pays_decisions: whether each decision costs the profile's ``decide_seconds``.
        asks_from: the first draft call after which there is one.

    Returns:
        Totals per sequence.
    """
    trace = outcomes.trace
    texts = len(trace.sequences)
    decisions = outcomes.paid(pays_decisions, asks_from).cumsum()  # [L], of a round that stops after call ℓ
    round_seconds = outcomes.seconds + outcomes.hardware.decide_seconds * decisions
    counts = {name: np.zeros(texts, dtype=np.int64) for name in Walk.__dataclass_fields__ if name != "seconds"}
    seconds = np.zeros(texts)
    for rows, depth, emitted in trace.rounds(depths):
        text = trace.sequence[rows]
        counts["emitted"][text] += emitted
        counts["rounds"][text] += 1
        counts["draft_calls"][text] += depth
        counts["accepted"][text] += trace.accepted[rows, depth - 1]
        counts["decisions"][text] += decisions[depth - 1]
        seconds[text] += round_seconds[depth - 1]
    return Walk(seconds=seconds, **counts)


def policy_depths(outcomes: Outcomes, policy: Policy) -> NDArray[np.int8]:
    """The depth at which a policy stops at every row it comes to: [N] int8 in 1 … L.

    A policy without memory is asked about many rows at once; one that looks at the accepted history, or switches
    between policies without memory, is led through all texts in step. Any other is led through the texts in order,
    round by round, as rollouts lead it: each text has a copy of the policy as it came, unless it ``remembers``. Rows
    that a policy with memory never comes to hold L; at those that a policy which looks at history never comes to, it is
    asked with the history that ``history_along`` gives them. The policy stays as it came.
    """
    trace = outcomes.trace
    depths = np.full(len(trace), outcomes.max_depth, dtype=np.int8)
    if isinstance(policy, SwitchingPolicy) and "history" not in policy.features:
        trace.check_features(policy.features)
        _switch(trace, copy.deepcopy(policy), depths)
        return depths
    if isinstance(policy, MemorylessPolicy):
        trace.check_features(columns_of(policy.features))
        for piece in trace.pieces():
            some = trace.rows_of(piece)
            if "history" in policy.features:
                _look_back(some, policy, depths[piece])
            else:
                depths[piece] = _asked(some, policy, slice(None))
        return depths
    across = copy.deepcopy(policy) if getattr(policy, "remembers", False) else None
    for first in trace.first_row:
        row, history = int(first), no_rounds()
        leads = across or copy.deepcopy(policy)
        leads.begin_sequence(trace.sequences.sequence_id[trace.sequence[row]])
        while row >= 0:
            depth = _live_depth(outcomes, leads, row, history)
            depths[row], accepted = depth, int(trace.accepted[row, depth - 1])
            leads.end_round(depth, accepted)
            history = after_round(history, accepted)
            row = int(trace.stop(np.array([row]), depth)[1][0])
    return depths


def choices(policy: MemorylessPolicy, trace: Trace) -> NDArray[np.bool_]:
    """Whether a policy continues after call 1 … L − 1 of rounds that start at each row, had it come so far.

    Args:
        policy: the policy.
        trace: N rows, read with the features that it looks at.

    Returns:
        [N, L − 1] bool.

    Raises:
        TraceError: the trace was read without a feature.
    """
    trace.check_features(policy.features)
    table = np.empty((len(trace), trace.settings.max_depth - 1), dtype=np.bool_)
    for piece in trace.pieces():
        seen = {name: trace.features[name][piece] for name in policy.features}
        confidences = trace.confidences[piece]
        for depth in range(1, table.shape[1] + 1):
            states = States(confidences, np.full(len(confidences), depth), seen)
            table[piece, depth - 1] = depth < policy.asks_from or policy.continues(states)
    return table


def _asked(
    trace: Trace, policy: MemorylessPolicy, rows: NDArray[np.int64] | slice, **walked: NDArray[Any]
) -> NDArray[np.int64]:
    """The depths at which a policy stops at some rows [B], with the columns that it looks at and what it is given."""
    seen = {name: trace.features[name][rows] for name in columns_of(policy.features)}
    return policy.stop_depths(trace.confidences[rows], seen | walked)


def _look_back(trace: Trace, policy: MemorylessPolicy, depths: NDArray[np.int8]) -> None:
    """Write the depths of a policy that looks at history: first of the rows that it comes to, then of the others."""
    rows = trace.first_row
    history = no_rounds(len(rows))
    while len(rows):
        made = _asked(trace, policy, rows, history=history)
        depths[rows] = made
        history = after_round(history, trace.accepted[rows, made - 1])
        following = trace.stop(rows, made)[1]
        going = following >= 0
        rows, history = following[going], history[going]
    others = np.flatnonzero(~roots(trace, depths))
    depths[others] = _asked(trace, policy, others, history=history_along(trace, depths)[others])


def _switch(trace: Trace, policy: SwitchingPolicy, depths: NDArray[np.int8]) -> None:
    """Write the depths at which a policy stops at the rows that it comes to: [N], changed in place."""
    for piece in trace.pieces():
        some = trace.rows_of(piece)
        survey = policy.survey(some.confidences, {name: some.features[name] for name in policy.features})
        first = some.first_row
        beside = [first[i : i + 1] for i in range(len(first))] if policy.remembers else [first]
        for rows in beside:
            policy.open_texts([trace.sequences.sequence_id[text] for text in some.sequence[rows]])
            _lead(some, policy, survey, rows, depths[piece])


def _lead(
    trace: Trace,
    policy: SwitchingPolicy,
    survey: NDArray[Any],
    rows: NDArray[np.int64],
    depths: NDArray[np.int8],
) -> None:
    """Lead a policy through the texts that begin at ``rows``, all in step."""
    texts = np.arange(len(rows))
    while len(rows):
        choices = policy.choose(texts)
        made = policy.depths(survey[rows], choices)
        depths[rows] = made
        policy.learn(texts, choices, made, trace.accepted[rows, made - 1].astype(np.int64))
        following = trace.stop(rows, made)[1]
        going = following >= 0
        rows, texts = following[going], texts[going]


def _live_depth(outcomes: Outcomes, policy: Policy, row: int, history: History) -> int:
    trace = outcomes.trace
    position, confidences = int(trace.position[row]), trace.confidences[row]
    features = {name: values[row] for name, values in trace.features.items()} | {"history": history}
    for depth in range(1, outcomes.max_depth):
        seen = features_after(depth, features)
        if policy.act(DraftState(position, depth, outcomes.max_depth, confidences, features=seen)) == STOP:
            return depth
    return outcomes.max_depth


def walk_policy(outcomes: Outcomes, policy: Policy) -> Walk:
    """Walk every text with a policy, its decisions paid for where it makes any."""
    return walk(outcomes, policy_depths(outcomes, policy), policy.pays_decisions, policy.asks_from)


def best_depths(outcomes: Outcomes) -> NDArray[np.int8]:
    """The depth at every row from which the rest of its text is emitted in the fewest seconds: [N] int8 in 1 … L."""
    depths = np.empty(len(outcomes.trace), dtype=np.int8)
    for piece, some in outcomes.pieces():
        depths[piece] = oracle_depths(some.seconds, some.next_row, some.trace.sequence)
    return depths


def walk_oracle(outcomes: Outcomes) -> Walk:
    """Walk every text with the clairvoyant optimum, which pays for no decisions."""
    return walk(outcomes, best_depths(outcomes), pays_decisions=False)
