"""Policies acting on texts side by side, one or many: every transition as a row."""

import copy
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import CONTINUE, STOP, Policy
from radar_rl.rollouts.payments import Payments
from radar_rl.rollouts.sessions import Texts
from radar_rl.runtime.decide import decide

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Slot:
    """A text to act on, for the ``repetition``-th time (from 0)."""

    index: int
    repetition: int = 0

    def name(self, texts: Texts) -> str:
        """The text's sequence id, with ``#REPETITION`` from the second time on; random choices are drawn by it."""
        sequence_id = texts.name(self.index).sequence_id
        return f"{sequence_id}#{self.repetition}" if self.repetition else sequence_id


def act_on(
    texts: Texts,
    slots: Sequence[Slot],
    policy: Policy,
    *,
    spec: ObservationSpec,
    payments: Payments,
    batch: int = 1,
    episode: int = 0,
) -> Iterator[Columns]:
    """Let a policy act on texts, ``batch`` of them side by side.

    Each text has a copy of the policy as it came, so that its rows depend neither on texts before nor on those beside
    it; a policy that ``remembers`` is led through all of them itself.

    Args:
        texts: what is decoded or replayed.
        slots: which of them, in order.
        policy: who decides.
        spec: layout of the observations.
        payments: what each step earns, and in a replay its seconds.
        batch: texts side by side.
        episode: number of the first episode; texts that their first token ended are passed over and get none.

    Yields:
        Of each batch the columns that ``rollouts_schema`` describes, one row a transition, those of an episode one
        after the other; no columns where every text was passed over.
    """
    remembers = getattr(policy, "remembers", False)
    for first in range(0, len(slots), batch):
        beside = slots[first : first + batch]
        policies = [policy if remembers else copy.deepcopy(policy) for _ in beside]
        rows = _play(texts, beside, policies, spec, payments)
        if not rows:
            yield rows
            continue
        played, number = np.unique(rows.pop("text"), return_inverse=True)  # those passed over have no rows
        names = [texts.name(beside[i].index) for i in played]
        for column in ("task", "prompt_id", "sequence_id"):
            rows[column] = np.array([getattr(name, column) for name in names], dtype=object)[number]
        rows["episode"], rows["batch"] = episode + number, np.full(len(number), episode)
        rows["policy"] = np.full(len(number), policy.name, dtype=object)
        yield rows
        episode += len(played)


def joined(batches: Iterable[Columns]) -> Columns:
    """The columns of several batches, one after the other; none if they have none."""
    some = [columns for columns in batches if columns]
    return {name: np.concatenate([columns[name] for columns in some]) for name in some[0]} if some else {}


def _play(
    texts: Texts, slots: Sequence[Slot], policies: Sequence[Policy], spec: ObservationSpec, payments: Payments
) -> Columns:
    """The rows of texts decoded side by side, ``text`` being the number of the slot; those of a text together."""
    batch = texts.open_batch([slot.index for slot in slots])
    for slot, policy in zip(slots, policies, strict=True):
        policy.begin_sequence(slot.name(texts))
    log, steps, rounds = _Log(), np.zeros(len(slots), dtype=np.int64), 0
    # The call from which on a decision of each costs something.
    pays = np.array([policy.asks_from if policy.pays_decisions else texts.max_depth for policy in policies])
    while batch.active:
        members = np.array(batch.active)  # [A], and so is all that follows
        positions, depth = np.empty_like(members), np.ones_like(members)
        observations, decided = np.empty((len(members), spec.size), dtype=np.float32), np.zeros(len(members))
        states = batch.begin()
        first_call = float(payments.draft_seconds[0]) if batch.seconds is None else batch.seconds
        rows = np.arange(len(members))  # those that have continued so far
        positions[:] = [state.position for state in states]
        while True:
            observations[rows] = spec.observe(states)
            if states[0].depth == texts.max_depth:
                break
            start = time.perf_counter()
            acts = decide([policies[members[row]] for row in rows], states)
            thought = payments.decide_seconds if batch.seconds is None else time.perf_counter() - start
            decided[rows] = thought * (pays[members[rows]] <= states[0].depth)
            rows = rows[np.array(acts) == CONTINUE]
            if not len(rows):
                break
            calls = states[0].depth
            states = batch.draft(rows.tolist())
            log.add(
                text=members[rows],
                round=rounds,
                step=steps[members[rows]],
                position=positions[rows],
                depth=calls,
                observation=observations[rows],
                action=CONTINUE,
                reward=payments.going_reward[calls - 1],
                terminated=False,
                accepted=0,
                emitted=0,
                draft_seconds=payments.draft_seconds[calls] if batch.seconds is None else batch.seconds,
                verify_seconds=0.0,
                decide_seconds=decided[rows],
            )
            steps[members[rows]] += 1
            decided[rows] = 0.0
            depth[rows] += 1
        outcomes = batch.verify()
        accepted = np.array([outcome.accepted for outcome in outcomes])
        emitted = np.array([outcome.emitted for outcome in outcomes])
        log.add(
            text=members,
            round=rounds,
            step=steps[members],
            position=positions,
            depth=depth,
            observation=observations,
            action=STOP,
            reward=payments.stop_reward[emitted, depth - 1],
            terminated=~np.isin(members, batch.active),
            accepted=accepted,
            emitted=emitted,
            draft_seconds=first_call,
            verify_seconds=payments.verify_seconds[depth - 1] if batch.seconds is None else batch.seconds,
            decide_seconds=decided,
        )
        steps[members] += 1
        rounds += 1
        for member, calls, brought in zip(members, depth.tolist(), accepted.tolist(), strict=True):
            policies[member].end_round(calls, brought)
    rows_of = log.by_text()
    if rows_of:
        rows_of["truncated"] = np.zeros(len(rows_of["text"]), dtype=np.bool_)
        ended = np.unique(rows_of["text"])
        cut = [batch.censored(int(number), rows_of["position"][rows_of["text"] == number]) for number in ended]
        rows_of["censored"] = np.concatenate(cut)
    return rows_of


class _Log:
    """Transitions as they happen: columns that grow by arrays."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = defaultdict(list)

    def add(self, text: NDArray[np.int64], **columns: NDArray[Any] | float) -> None:
        """Add a row for each entry of ``text``; a value that is no array stands for all."""
        self._parts["text"].append(text)
        for name, values in columns.items():
            whole = values if isinstance(values, np.ndarray) else np.full(len(text), values)
            self._parts[name].append(whole)

    def by_text(self) -> Columns:
        """All rows, those of a text one after the other; no columns if there are none."""
        columns = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        order = np.argsort(columns["text"], kind="stable") if columns else None
        return {name: values[order] for name, values in columns.items()}
