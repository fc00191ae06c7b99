"""Texts that are decoded round by round: live by a pair, or again from a trace, behind one interface.

The environments and the rollouts do not know which of the two they have: same texts, same rounds, same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import TraceError, check_whole
from radar_rl.rollouts.trace import Trace
from radar_rl.rollouts.view import TreeView
from radar_rl.speculative.features import FEATURES, columns_of
from radar_rl.speculative.history import History, after_round, no_rounds
from radar_rl.speculative.reading import features_after
from radar_rl.speculative.state import DraftState, FeatureValues


@dataclass(frozen=True)
class Outcome:
    """What verification brought: ``accepted`` draft tokens, ``emitted`` tokens."""

    accepted: int
    emitted: int


class TextSession(Protocol):
    """One text being decoded: ``begin()`` a round, ``draft()`` more levels, ``verify()``, until ``finished``."""

    @property
    def finished(self) -> bool:
        """Whether the text has ended."""

    def begin(self) -> DraftState:
        """Start a round; makes draft call 1."""

    def draft(self) -> DraftState:
        """Make one more draft call."""

    def verify(self) -> Outcome:
        """End the round."""

    def censored(self, position: int) -> bool:
        """Of a finished text: whether ``position`` is near an end that length, not eos, made."""

    def view(self) -> TreeView:
        """The newest tree: as it stands, or as it was verified where the round is over."""

    def written(self) -> str | None:
        """The end of what the target has said before the newest tree, root token last; None where it is not known."""


class TextBatch(Protocol):
    """Texts being decoded side by side, round by round, until none is active.

    Attributes:
        seconds: measured seconds of the newest draft call or verification, None where nothing is measured.
    """

    seconds: float | None

    @property
    def active(self) -> list[int]:
        """Those that have not ended, as numbers among the texts that were opened."""

    def begin(self) -> list[DraftState]:
        """Start a round; makes draft call 1. The state of each active text."""

    def draft(self, rows: Sequence[int]) -> list[DraftState]:
        """Make one more draft call for some of the active texts, all of which have continued so far; their states."""

    def verify(self) -> list[Outcome]:
        """End the round; what it brought each text that was active."""

    def censored(self, number: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of a finished text: which ``positions`` [n] are near an end that length, not eos, made: [n]."""


class TextName(NamedTuple):
    """Whose text it is, and what tells it apart: ``sequence_id``, as the ``sequences`` of a trace have it."""

    task: str
    prompt_id: str
    sequence_id: str


class Texts(Protocol):
    """Texts that can be decoded, each any number of times.

    Attributes:
        target: whose texts they are, ``NAME@HASH``; behind it the shape that it was inflated to, if it was.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        widen_first_level: whether ``tree_size - 1`` children are verified after call 1 (RADAR), instead of ``top_k``.
    """

    target: str
    max_depth: int
    top_k: int
    tree_size: int
    widen_first_level: bool

    def __len__(self) -> int:
        """How many there are."""

    def name(self, index: int) -> TextName:
        """Task, prompt id and sequence id of a text."""

    def open(self, index: int) -> TextSession:
        """Begin a text; it is finished at once if its first token ends it."""

    def fingerprint(self, index: int) -> str:
        """What tells a text from another one of its name."""

    def open_batch(self, indices: Sequence[int]) -> TextBatch:
        """Begin texts side by side."""


def near_cut(position: int | NDArray[np.int64], length: int, max_depth: int) -> bool | NDArray[np.bool_]:
    """Whether ``position`` is among the last ``max_depth`` of a text of ``length`` tokens (the last is no root)."""
    return position >= length - 1 - max_depth


class ReplaySession:
    """A text of a trace: the rounds that a live session would run, looked up."""

    def __init__(self, texts: "ReplayTexts", index: int) -> None:
        self._texts = texts
        self._row, self._end = int(texts.starts[index]), int(texts.starts[index + 1])
        self._depth = 0
        self._history = no_rounds()
        self._confidences = np.empty(0, dtype=np.float16)
        self._outcome: Outcome | None = None

    @property
    def finished(self) -> bool:
        """Whether the text has ended."""
        return self._row >= self._end

    def begin(self) -> DraftState:
        """Start a round; makes draft call 1."""
        texts = self._texts
        self._confidences = np.full((texts.max_depth, texts.top_k), -np.inf, dtype=np.float16)
        self._depth, self._outcome = 0, None
        return self.draft()

    def draft(self) -> DraftState:
        """Make one more draft call."""
        texts, trace = self._texts, self._texts.trace
        self._confidences = self._confidences.copy()  # a state that somebody kept sees no call after its own
        self._confidences[self._depth] = trace.confidences[self._row, self._depth]
        self._depth += 1
        asked = texts.features or texts.shows_history
        features = partial(texts.features_at, self._row, self._depth, self._history) if asked else None
        position = int(trace.position[self._row])
        return DraftState(position, self._depth, texts.max_depth, self._confidences, features=features)

    def verify(self) -> Outcome:
        """End the round."""
        accepted = int(self._texts.trace.accepted[self._row, self._depth - 1])
        emitted = min(accepted + 1, self._end - self._row)
        self._row += emitted
        self._history = after_round(self._history, accepted)
        self._outcome = Outcome(accepted, emitted)
        return self._outcome

    def view(self) -> TreeView:
        """The beams of the levels drafted: a trace holds neither tokens nor parents."""
        beams = self._confidences[: self._depth].astype(np.float32)
        depths = np.repeat(np.arange(self._depth + 1), [1] + [beams.shape[1]] * self._depth)
        log_probs = np.concatenate((np.zeros(1, dtype=np.float32), beams.ravel()))
        view = TreeView(depths, log_probs, parents=None, labels=None, draft_calls=self._depth)
        done = self._outcome
        return view if done is None else replace(view, accepted=done.accepted, emitted=done.emitted)

    def written(self) -> None:
        """A trace in memory holds no tokens."""
        return

    def censored(self, position: int) -> bool:
        """Whether ``position`` is near an end that length, not eos, made."""
        trace = self._texts.trace
        last = self._end - 1
        return bool(trace.censored[last - (int(trace.position[last]) - position)])


class LockStep:
    """Texts of which each has a session of its own, led round by round together."""

    seconds: float | None = None

    def __init__(self, sessions: Sequence[TextSession]) -> None:
        self.sessions = list(sessions)
        self._members: list[int] = []

    @property
    def active(self) -> list[int]:
        """Those that have not ended."""
        return [number for number, session in enumerate(self.sessions) if not session.finished]

    def begin(self) -> list[DraftState]:
        """Start a round; makes draft call 1."""
        self._members = self.active
        return [self.sessions[number].begin() for number in self._members]

    def draft(self, rows: Sequence[int]) -> list[DraftState]:
        """Make one more draft call for some."""
        return [self.sessions[self._members[row]].draft() for row in rows]

    def verify(self) -> list[Outcome]:
        """End the round."""
        return [self.sessions[number].verify() for number in self._members]

    def censored(self, number: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of a finished text: which positions are near an end that length, not eos, made."""
        session = self.sessions[number]
        return np.array([session.censored(int(position)) for position in positions], dtype=np.bool_)


class ReplayTexts:
    """The texts of a trace.

    Args:
        trace: what to replay.
        max_depth: draft calls a round can make, at most the collected ones (the default): growing a tree does not
            depend on how much further it could grow.
        tree_size: nodes verified, which the trace must have been read for; None: whatever it was read for.
        features: names of the features that states are to have, which the trace must have been read with, but for
            those that depend on the walk.

    Attributes:
        features: by name, [N, …] as the trace has them, for ``max_depth`` draft calls.
        shows_history: whether states have the feature ``history`` besides.

    Raises:
        TraceError: the trace was collected with fewer draft calls than asked for, was read for another tree size or
            without a feature, holds no rows, or accepts more than was drafted.
        InputError: a size is no whole number.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        max_depth: int | None = None,
        tree_size: int | None = None,
        features: Sequence[str] = (),
    ) -> None:
        collected = trace.settings
        for name, value in {"max_depth": max_depth, "tree_size": tree_size}.items():
            if value is not None:
                check_whole(name, value, None)
        self.max_depth = collected.max_depth if max_depth is None else max_depth
        self.tree_size, self.target = collected.tree_size, collected.target
        self.widen_first_level = trace.widen_first_level
        self.top_k = collected.top_k
        if not 1 <= self.max_depth <= collected.max_depth:
            raise TraceError(f"max_depth: expected 1 … {collected.max_depth} (as collected), got {self.max_depth}")
        if len(trace) == 0:
            raise TraceError("the trace holds no rows: every text ended with its first token")
        trace.check_tree_size(tree_size)
        columns = columns_of(features)
        trace.check_features(columns)
        most = trace.accepted.max(axis=0)
        if (most > np.arange(1, len(most) + 1)).any():
            raise TraceError(f"accepted: expected at most a token a draft call, got {most.tolist()} after call 1, 2, …")
        calls = slice(self.max_depth)
        cuts = {name: tuple(calls for axis in FEATURES[name].axes if axis == "max_depth") for name in columns}
        self.features = {name: trace.features[name][(slice(None), *cut)] for name, cut in cuts.items()}
        self.shows_history = "history" in features
        self.trace = trace
        self.starts = np.searchsorted(trace.sequence, np.arange(len(trace.sequences) + 1))

    def __len__(self) -> int:
        return len(self.trace.sequences)

    def name(self, index: int) -> TextName:
        """Task, prompt id and sequence id of a text."""
        texts = self.trace.sequences
        return TextName(texts.task[index], texts.prompt_id[index], texts.sequence_id[index])

    def fingerprint(self, index: int) -> str:
        """Where the text's completion begins and ends: what tells it from another of its name."""
        texts = self.trace.sequences
        return f"{texts.prompt_length[index]}-{texts.length[index]}"

    def features_at(self, row: int, depth: int, history: History) -> FeatureValues:
        """The features of a state with this history, by name; those of calls above ``depth`` are zero."""
        found = {name: values[row] for name, values in self.features.items()}
        return features_after(depth, found | ({"history": history} if self.shows_history else {}))

    def open(self, index: int) -> ReplaySession:
        """Begin a text."""
        return ReplaySession(self, index)

    def open_batch(self, indices: Sequence[int]) -> LockStep:
        """Begin texts side by side."""
        return LockStep([self.open(index) for index in indices])
