"""Texts that are decoded round by round: live by a pair, or again from a trace, behind one interface.

The environments and the rollouts do not know which of the two they have: same texts, same rounds, same numbers.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import InputError, TraceError
from radar_rl.rollouts.tasks import Prompt
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.session import SpeculativeSession
from radar_rl.speculative.state import DraftState


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


class Texts(Protocol):
    """Texts that can be decoded, each any number of times."""

    max_depth: int
    top_k: int
    tree_size: int

    def __len__(self) -> int:
        """How many there are."""

    def name(self, index: int) -> tuple[str, str]:
        """Task and prompt id of a text."""

    def open(self, index: int) -> TextSession:
        """Begin a text; it is finished at once if its first token ends it."""


def sequence_seed(seed: int, prompt_id: str, sample: int) -> int:
    """The sampling seed of one sequence, below 2⁶³: a stable hash, so that no two prompts share their noise."""
    digest = hashlib.sha256(f"{seed}/{sample}/{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def near_cut(position: int | NDArray[np.int64], length: int, max_depth: int) -> bool | NDArray[np.bool_]:
    """Whether ``position`` is among the last ``max_depth`` of a text of ``length`` tokens (the last is no root)."""
    return position >= length - 1 - max_depth


class LiveSession:
    """A ``SpeculativeSession`` with a stopwatch.

    Attributes:
        draft_seconds: measured seconds of the newest draft call.
        verify_seconds: measured seconds of the newest verification.
    """

    def __init__(self, session: SpeculativeSession) -> None:
        self.session = session
        self.draft_seconds = self.verify_seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether the text has ended."""
        return self.session.finished

    def begin(self) -> DraftState:
        """Start a round; makes draft call 1."""
        start = time.perf_counter()
        state = self.session.begin()
        self.draft_seconds = time.perf_counter() - start
        return state

    def draft(self) -> DraftState:
        """Make one more draft call."""
        start = time.perf_counter()
        state = self.session.draft()
        self.draft_seconds = time.perf_counter() - start
        return state

    def verify(self) -> Outcome:
        """End the round with one target forward."""
        start = time.perf_counter()
        done = self.session.verify()
        self.verify_seconds = time.perf_counter() - start
        return Outcome(done.accepted, len(done.emitted))

    def censored(self, position: int) -> bool:
        """Of a finished text: whether ``position`` is near an end that length, not eos, made."""
        session = self.session
        cut = session.token_ids[-1] not in session.pair.eos_token_ids
        return cut and bool(near_cut(position, session.position + 1, session.max_depth))


class LiveTexts:
    """Prompts that a pair decodes.

    Args:
        pair: target and draft head.
        prompts: what to decode.
        max_new_tokens: length at which a text is cut.
        max_depth, top_k, tree_size: draft calls, beam width, nodes verified (root included).
        temperature, sample_top_k, sample_top_p: sampling of the target, 0 is greedy.
        seed: each text's own seed derives from it, the prompt's id and sample number 0.

    Raises:
        InputError: there are no prompts, or one cannot be decoded; names it.
    """

    def __init__(
        self,
        pair: Pair,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 96,
        max_depth: int = 8,
        top_k: int = 10,
        tree_size: int = 60,
        temperature: float = 0.0,
        sample_top_k: int = 0,
        sample_top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not prompts:
            raise InputError("no prompts to decode")
        self.pair, self.prompts, self.seed = pair, list(prompts), seed
        self.max_new_tokens, self.max_depth, self.top_k, self.tree_size = max_new_tokens, max_depth, top_k, tree_size
        self.temperature, self.sample_top_k, self.sample_top_p = temperature, sample_top_k, sample_top_p
        self.prompt_ids = [prompt.encode(pair) for prompt in self.prompts]
        for prompt, ids in zip(self.prompts, self.prompt_ids, strict=True):
            try:
                pair.check_prompt(ids, max_new_tokens)
            except InputError as error:
                raise InputError(f"{prompt.task}, prompt {prompt.prompt_id}: {error}") from error

    def __len__(self) -> int:
        return len(self.prompts)

    def name(self, index: int) -> tuple[str, str]:
        """Task and prompt id of a text."""
        return self.prompts[index].task, self.prompts[index].prompt_id

    def open(self, index: int) -> LiveSession:
        """Prefill a prompt and emit the first token."""
        session = SpeculativeSession(
            self.pair,
            self.prompt_ids[index],
            max_new_tokens=self.max_new_tokens,
            max_depth=self.max_depth,
            top_k=self.top_k,
            tree_size=self.tree_size,
            temperature=self.temperature,
            sample_top_k=self.sample_top_k,
            sample_top_p=self.sample_top_p,
            seed=sequence_seed(self.seed, self.prompts[index].prompt_id, 0),
        )
        return LiveSession(session)


class ReplaySession:
    """A text of a trace: the rounds that a live session would run, looked up."""

    def __init__(self, texts: "ReplayTexts", index: int) -> None:
        self._texts = texts
        self._row, self._end = int(texts.starts[index]), int(texts.starts[index + 1])
        self._depth = 0
        self._confidences = np.empty(0, dtype=np.float16)

    @property
    def finished(self) -> bool:
        """Whether the text has ended."""
        return self._row >= self._end

    def begin(self) -> DraftState:
        """Start a round; makes draft call 1."""
        texts = self._texts
        self._confidences = np.full((texts.max_depth, texts.top_k), -np.inf, dtype=np.float16)
        self._depth = 0
        return self.draft()

    def draft(self) -> DraftState:
        """Make one more draft call."""
        trace = self._texts.trace
        self._confidences[self._depth] = trace.confidences[self._row, self._depth]
        self._depth += 1
        return DraftState(int(trace.position[self._row]), self._depth, self._texts.max_depth, self._confidences)

    def verify(self) -> Outcome:
        """End the round."""
        accepted = int(self._texts.trace.accepted[self._row, self._depth - 1])
        emitted = min(accepted + 1, self._end - self._row)
        self._row += emitted
        return Outcome(accepted, emitted)

    def censored(self, position: int) -> bool:
        """Whether ``position`` is near an end that length, not eos, made."""
        trace = self._texts.trace
        last = self._end - 1
        return bool(trace.censored[last - (int(trace.position[last]) - position)])


class ReplayTexts:
    """The texts of a trace.

    Args:
        trace: what to replay.
        max_depth: draft calls a round can make, at most the collected ones (the default): growing a tree does not
            depend on how much further it could grow.
        tree_size: nodes verified, which the trace must have been read for; None: whatever it was read for.

    Raises:
        TraceError: the trace was collected with fewer draft calls than asked for, was read for another tree size, or
            holds no rows.
    """

    def __init__(self, trace: Trace, *, max_depth: int | None = None, tree_size: int | None = None) -> None:
        collected = trace.settings
        self.max_depth = collected.max_depth if max_depth is None else max_depth
        self.tree_size = collected.tree_size
        self.top_k = collected.top_k
        if not 1 <= self.max_depth <= collected.max_depth:
            raise TraceError(f"max_depth: expected 1 … {collected.max_depth} (as collected), got {self.max_depth}")
        if len(trace) == 0:
            raise TraceError("the trace holds no rows: every text ended with its first token")
        trace.check_tree_size(tree_size)
        self.trace = trace
        self.starts = np.searchsorted(trace.sequence, np.arange(len(trace.sequences) + 1))

    def __len__(self) -> int:
        return len(self.trace.sequences)

    def name(self, index: int) -> tuple[str, str]:
        """Task and prompt id of a text."""
        return self.trace.sequences.task[index], self.trace.sequences.prompt_id[index]

    def open(self, index: int) -> ReplaySession:
        """Begin a text."""
        return ReplaySession(self, index)
