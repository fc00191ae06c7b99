"""Texts that a pair decodes, behind the interface of ``sessions``."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from logging import getLogger
from typing import TypeVar, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import InputError, check_whole
from radar_rl.rollouts.sessions import Outcome, TextName, TextSession, near_cut
from radar_rl.rollouts.tasks import Skipped
from radar_rl.rollouts.view import TreeView
from radar_rl.rollouts.writing import TEXTS_PER_BATCH, Work, sequence_seed, write_prompts
from radar_rl.runtime.profiler import clock
from radar_rl.speculative.batch import SpeculativeBatch
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.prompts import Prompt
from radar_rl.speculative.session import SpeculativeSession
from radar_rl.speculative.state import DraftState
from radar_rl.speculative.text import DraftOptions, Options, Round

T = TypeVar("T")

log = getLogger(__name__)

SHOWN_TOKENS = 100
"""Of the text before a tree, how much ``written`` spells: more than any picture has room for."""


def timed(pair: Pair, step: Callable[[], T]) -> tuple[T, float]:
    """What a step on the pair's device gives, and the seconds it took."""
    start = clock(pair)
    done = step()
    return done, clock(pair) - start


class LiveSession:
    """A ``SpeculativeSession`` behind the interface."""

    def __init__(self, session: SpeculativeSession) -> None:
        self.session = session
        self._calls = 0
        self._round: Round | None = None

    @property
    def finished(self) -> bool:
        """Whether the text has ended."""
        return self.session.finished

    def begin(self) -> DraftState:
        """Start a round; makes draft call 1."""
        self._round, self._calls = None, 1
        return self.session.begin()

    def draft(self) -> DraftState:
        """Make one more draft call."""
        state = self.session.draft()
        self._calls += 1
        return state

    def verify(self) -> Outcome:
        """End the round with one target forward."""
        self._round = done = self.session.verify()
        return Outcome(done.accepted, len(done.emitted))

    def view(self) -> TreeView:
        """The newest tree, its tokens as text."""
        done = self._round
        tree = self.session.tree() if done is None else done.tree
        view = TreeView(
            depths=tree.depth_array,
            log_probs=tree.log_prob_array,
            parents=tree.parent_array,
            labels=tuple(self._spelt([token]) for token in tree.tokens),
            draft_calls=self._calls,
        )
        if done is None:
            return view
        accepted = done.emitted[: done.accepted]
        return replace(
            view,
            accepted=done.accepted,
            emitted=len(done.emitted),
            path=tree.path(accepted),
            bonus=self._spelt(done.emitted[done.accepted :]),
        )

    def written(self) -> str:
        """What the target has said before the newest tree: the end of it."""
        emitted = 0 if self._round is None else len(self._round.emitted)
        token_ids = self.session.token_ids
        before = len(token_ids) - emitted
        return self._spelt(token_ids[max(0, before - SHOWN_TOKENS) : before])

    def _spelt(self, token_ids: Sequence[int]) -> str:
        """Tokens as text; as their numbers where the target came without a tokenizer."""
        tokenizer = self.session.pair.tokenizer
        if tokenizer is None:
            return " ".join(map(str, token_ids))
        text: str = tokenizer.decode(token_ids)
        return text

    def censored(self, position: int) -> bool:
        """Of a finished text: whether ``position`` is near an end that length, not eos, made."""
        session = self.session
        cut = session.token_ids[-1] not in session.pair.eos_token_ids
        return cut and bool(near_cut(position, session.position + 1, session.max_depth))


class NoSession:
    """A text that cannot be decoded: finished before its first round."""

    finished = True

    def begin(self) -> DraftState:
        """There are no rounds."""
        raise RuntimeError("the text has no rounds: it does not fit the context")

    draft = begin

    def verify(self) -> Outcome:
        """There are no rounds."""
        raise RuntimeError("the text has no rounds: it does not fit the context")

    def censored(self, position: int) -> bool:
        """There are no positions."""
        return False

    def view(self) -> TreeView:
        """There are no rounds."""
        raise RuntimeError("the text has no rounds: it does not fit the context")

    def written(self) -> None:
        """There are no tokens."""
        return


class LiveBatch:
    """A ``SpeculativeBatch`` with a stopwatch.

    Args:
        batch: the texts that are decoded; None if there are none.
        numbers: the number of each of them among the texts that were opened.

    Attributes:
        seconds: measured seconds of the newest draft call or verification, of the whole batch.
    """

    def __init__(self, batch: SpeculativeBatch | None, numbers: Sequence[int]) -> None:
        self.batch, self.numbers = batch, list(numbers)
        self.seconds: float | None = 0.0

    @property
    def active(self) -> list[int]:
        """Those that have not ended."""
        return [] if self.batch is None else [self.numbers[i] for i in self.batch.active]

    def begin(self) -> list[DraftState]:
        """Start a round; makes draft call 1."""
        return self._timed(self._decoded.begin)

    def draft(self, rows: Sequence[int]) -> list[DraftState]:
        """Make one more draft call for some."""
        return self._timed(lambda: self._decoded.draft(rows))

    def verify(self) -> list[Outcome]:
        """End the round with one target forward for all."""
        return [Outcome(done.accepted, len(done.emitted)) for done in self._timed(self._decoded.verify)]

    def censored(self, number: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of a finished text: which positions are near an end that length, not eos, made."""
        text = self._decoded.texts[self.numbers.index(number)]
        cut = text.token_ids[-1] not in text.eos
        return np.asarray(near_cut(positions, text.position + 1, self._decoded.max_depth)) & cut

    @property
    def _decoded(self) -> SpeculativeBatch:
        if self.batch is None:
            raise RuntimeError("no text of the batch is active")
        return self.batch

    def _timed(self, step: Callable[[], T]) -> T:
        done, self.seconds = timed(self._decoded.pair, step)
        return done


class LiveTexts:
    """What a pair answers to prompts: the very texts that ``write_texts`` writes, an entry for each turn.

    The turns of a conversation follow one another, each after the target's own answers to those before it. Those are
    written when the first later turn is opened, for 32 conversations at a time. A turn that does not fit the context
    is finished before its first round, with a warning.

    Args:
        pair: target and draft head.
        prompts: what to decode.
        samples: conversations per prompt.
        options: what texts are decoded and drafted with; each text's own seed derives from ``seed``, the prompt's id
            and the number of the sample.

    Attributes:
        works: the conversations.
        skipped: turns that were found not to fit.

    Raises:
        InputError: there are no prompts, or one cannot be decoded; names it.
    """

    def __init__(
        self, pair: Pair, prompts: Sequence[Prompt], *, samples: int = 1, **options: Unpack[DraftOptions]
    ) -> None:
        if not prompts:
            raise InputError("no prompts to decode")
        defaults: DraftOptions = {"max_depth": 8, "top_k": 10, "tree_size": 60, "max_new_tokens": 96, "seed": 0}
        self.pair, self.options, self.target = pair, defaults | options, pair.label
        self.max_depth, self.top_k = self.options["max_depth"], self.options["top_k"]
        self.tree_size, self.widen_first_level = self.options["tree_size"], self.options.get("widen_first_level", False)
        pair.check_shape(self.max_depth, self.top_k, self.tree_size, self.widen_first_level)
        check_whole("seed", self.options["seed"], None)
        check_whole("max_new_tokens", self.options["max_new_tokens"], 1)
        encoded = [tuple(prompt.encode(pair)) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            try:
                pair.check_prompt(ids, self.options["max_new_tokens"])
            except InputError as error:
                raise InputError(f"{prompt.label}: {error}") from error
        self.works = [
            Work(prompt, ids, n) for prompt, ids in zip(prompts, encoded, strict=True) for n in range(samples)
        ]
        self.skipped: list[Skipped] = []
        self._entries = [(w, t) for w, work in enumerate(self.works) for t in range(len(work.prompt.later_turns) + 1)]
        self._later: dict[int, list[tuple[int, ...]]] = {}  # of a work's turns from the second on, those that fit

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> TextName:
        """Task, prompt id and sequence id of a text."""
        work, turn = self._entry(index)
        return TextName(work.prompt.task, work.prompt.prompt_id, work.sequence_id(turn))

    def fingerprint(self, index: int) -> str:
        """Hash of what the user says in the text's conversation."""
        return self._entry(index)[0].said

    def open(self, index: int) -> TextSession:
        """Prefill a prompt and emit the first token."""
        prompt_ids = self._prompt_ids(index)
        if prompt_ids is None:
            return NoSession()
        options = self.options.copy()
        options["seed"] = self._seed(index)
        return LiveSession(SpeculativeSession(self.pair, prompt_ids, **options))

    def open_batch(self, indices: Sequence[int]) -> LiveBatch:
        """Prefill prompts and emit the first tokens."""
        prompts = {number: self._prompt_ids(index) for number, index in enumerate(indices)}
        fitting = {number: ids for number, ids in prompts.items() if ids is not None}
        seeds = [self._seed(indices[number]) for number in fitting]
        if not fitting:
            return LiveBatch(None, [])
        batch = SpeculativeBatch(self.pair, list(fitting.values()), seeds=seeds, **self.options)
        return LiveBatch(batch, list(fitting))

    def _entry(self, index: int) -> tuple[Work, int]:
        work, turn = self._entries[index]
        return self.works[work], turn

    def _seed(self, index: int) -> int:
        work, _ = self._entry(index)
        return sequence_seed(self.options["seed"], work.prompt.prompt_id, work.sample)

    def _prompt_ids(self, index: int) -> tuple[int, ...] | None:
        """The conversation up to the text; None where it does not fit."""
        number, turn = self._entries[index]
        if turn == 0:
            return self.works[number].prompt_ids
        if number not in self._later:
            self._converse(number)
        later = self._later[number]
        return later[turn - 1] if turn <= len(later) else None

    def _converse(self, number: int) -> None:
        """Write what a conversation, and those after it, need before their later turns."""
        talks = [n for n, work in enumerate(self.works) if work.prompt.later_turns and n not in self._later]
        talks = talks[talks.index(number) :][:TEXTS_PER_BATCH]
        options = cast(Options, {key: value for key, value in self.options.items() if key in Options.__annotations__})
        prompts, skipped = write_prompts(self.pair, [self.works[n] for n in talks], **options)
        self._later |= {n: turns[1:] for n, turns in zip(talks, prompts, strict=True)}
        for one in skipped:
            log.warning("%s, prompt %s, turn %d: passed over, %s", one.task, one.prompt_id, one.turn, one.reason)
        self.skipped.extend(skipped)
