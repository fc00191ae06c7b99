"""What policies do on the held-out texts, so counted that any machine's seconds follow without another walk.

How many rounds of each text stop after each draft call says what a policy costs at every price: where it stops does not
depend on prices. Only the clairvoyant optimum does, and is found anew at each.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from radar_rl.offline.history import roots
from radar_rl.offline.walk import Outcomes, best_depths, policy_depths
from radar_rl.policies import Policy
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.hardware import HardwareProfile

# Edges of classes of the best path's probability; drafts are worth going on with down to a few per cent.
CONFIDENCES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class Texts:
    """The texts that policies are compared on.

    Attributes:
        task: [S] int64, number of each text's task.
        tasks: names of the tasks.
        emitted: [S] int64, tokens that follow each text's first one; 0 for a text that does not count.
        nodes: [L] int64, nodes verified when stopping after call 1 … L.
    """

    task: NDArray[np.int64]
    tasks: tuple[str, ...]
    emitted: NDArray[np.int64]
    nodes: NDArray[np.int64]

    @classmethod
    def of(cls, outcomes: Outcomes) -> "Texts":
        """The texts of a trace."""
        trace = outcomes.trace
        emitted = np.bincount(trace.sequence, minlength=len(trace.sequences))  # each but a text's last token is a row
        names, task = np.unique(np.array(trace.sequences.task), return_inverse=True)
        return cls(task.astype(np.int64), tuple(map(str, names)), emitted.astype(np.int64), outcomes.nodes)

    def speedup(self, seconds: NDArray[np.float64], baseline: NDArray[np.float64]) -> float:
        """Throughput against a baseline's: the mean over tasks, as ``evaluate`` judges.

        Args:
            seconds: [S], a policy's.
            baseline: [S], those of what it is compared with.
        """
        own, base = (np.bincount(self.task, weights=values) for values in (seconds, baseline))
        there = own > 0
        return float(np.mean(base[there] / own[there]))


@dataclass(frozen=True)
class Stops:
    """Where a policy stops.

    Attributes:
        rounds: [S, L] int64, rounds of each text that stop after call 1 … L.
        paid: [L] bool, after which calls it pays for a decision.
        decisions: [L − 1, classes of ``CONFIDENCES``, 2] int64, over all rounds: after how many of the draft calls it
            went on (0) and stopped (1), by the probability of the best path then.
    """

    rounds: NDArray[np.int64]
    paid: NDArray[np.bool_]
    decisions: NDArray[np.int64]

    def seconds(self, machine: HardwareProfile, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of each text on a machine, its decisions paid: [S]."""
        return np.asarray(self.rounds @ sum(round_parts(machine, nodes, self.paid).values()))

    def parts(self, machine: HardwareProfile, nodes: NDArray[np.int64]) -> dict[str, float]:
        """Seconds of all rounds together, by part."""
        each = self.rounds.sum(axis=0)
        return {name: float(each @ seconds) for name, seconds in round_parts(machine, nodes, self.paid).items()}


def round_parts(
    machine: HardwareProfile, nodes: NDArray[np.int64], paid: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Seconds of a round that stops after call 1 … L, by part: [L] each.

    Args:
        machine: whose seconds.
        nodes: [L], verified after each call.
        paid: [L], whether stopping was decided on after the call.
    """
    depth = len(nodes)
    return {
        "draft calls": np.cumsum(machine.draft(depth)),
        "decisions": machine.decide_seconds * np.cumsum(paid),
        "verification": machine.verify(nodes),
        "rest": np.full(depth, machine.rest_seconds),
    }


def follow(outcomes: Outcomes, policy: Policy) -> Stops:
    """Lead a policy through the texts."""
    depths = policy_depths(outcomes, policy)
    return _stops(outcomes, depths, outcomes.paid(policy.pays_decisions, policy.asks_from))


def follow_oracle(outcomes: Outcomes) -> Stops:
    """Lead the clairvoyant optimum of the outcomes' machine through the texts; it pays for no decisions."""
    return _stops(outcomes, best_depths(outcomes), outcomes.paid(pays_decisions=False))


def at_price(machine: HardwareProfile, share: float, nodes: NDArray[np.int64]) -> HardwareProfile:
    """The machine, were its draft calls cheaper or dearer by one factor.

    Args:
        machine: the profile.
        share: what the last draft call shall cost, of a round's rest (``HardwareProfile.draft_share``).
        nodes: [L], nodes verified; the rest holds verification of the last.
    """
    now = machine.draft_share(int(nodes[-1]))
    if now == 0:  # nothing to scale
        rest = float(machine.verify(nodes[-1])) + machine.rest_seconds
        return replace(machine, draft_seconds=(share * rest,))
    return replace(machine, draft_seconds=tuple(share / now * seconds for seconds in machine.draft_seconds))


def static_rounds(trace: Trace) -> NDArray[np.int64]:
    """Rounds of all texts together at each static depth 1 … L: [L] int64, by which depths are tuned at any price."""
    depths = np.empty(len(trace), dtype=np.int8)
    rounds = np.zeros(trace.settings.max_depth, dtype=np.int64)
    for depth in range(1, len(rounds) + 1):
        depths[:] = depth
        rounds[depth - 1] = sum(len(rows) for rows, _, _ in trace.rounds(depths))
    return rounds


def _stops(outcomes: Outcomes, depths: NDArray[np.integer], paid: NDArray[np.bool_]) -> Stops:
    trace, most = outcomes.trace, outcomes.max_depth
    begins = roots(trace, depths)
    kinds = len(CONFIDENCES) - 1
    rounds = np.zeros((len(trace.sequences), most), dtype=np.int64)
    decisions = np.zeros((most - 1, kinds, 2), dtype=np.int64)
    for piece in trace.pieces():
        rows = np.flatnonzero(begins[piece])
        some, made = trace.rows_of(piece), depths[piece][rows].astype(np.int64)
        np.add.at(rounds, (some.sequence[rows], made - 1), 1)
        best = np.exp(some.confidences[rows, : most - 1, 0].astype(np.float32))  # [rounds, L − 1]
        kind = np.clip(np.searchsorted(CONFIDENCES, best, side="right") - 1, 0, kinds - 1)
        call = np.arange(1, most)
        asked = call <= made[:, None]
        place = ((call - 1) * kinds + kind) * 2 + (call == made[:, None])
        decisions += np.bincount(place[asked], minlength=decisions.size).reshape(decisions.shape)
    return Stops(rounds, paid, decisions)
