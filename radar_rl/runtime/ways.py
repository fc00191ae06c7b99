"""Ways of decoding the same prompts, side by side: with policies, and the target alone."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

from radar_rl.runtime.alone import autoregressive
from radar_rl.runtime.decoder import SpeculativeDecoder
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.text import Options, Round

WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Step:
    """What came at once: a round's tokens, a token of the target alone, or a whole text.

    Attributes:
        text: which of the texts that are decoded together.
        token_ids: the new tokens.
        rounds: that gave them.
        counted: whether tokens and seconds count; not where the step is one text's prefill.
    """

    text: int
    token_ids: Sequence[int]
    rounds: Sequence[Round] = ()
    counted: bool = True


Show = Callable[[Step], None]


@dataclass(frozen=True)
class Way:
    """A way of decoding.

    Attributes:
        name: how tables call it.
        steps: decodes prompts, token ids of each, together.
        warm_up: decodes a few tokens of a prompt the same way, and leaves the way as it was.
    """

    name: str
    steps: Callable[[Sequence[Sequence[int]]], Iterator[Step]]
    warm_up: Callable[[Sequence[int]], object]


@dataclass
class Tally:
    """What a way came to so far.

    Attributes:
        texts, tokens, rounds, emitted, draft_calls, nodes: counts; ``tokens`` are those within ``seconds``, ``emitted``
            those of rounds.
        seconds: for the tokens.
    """

    texts: int = 0
    tokens: int = 0
    rounds: int = 0
    emitted: int = 0
    draft_calls: int = 0
    nodes: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens over seconds, NaN without any."""
        return self.tokens / self.seconds if self.tokens else float("nan")

    @property
    def acceptance_length(self) -> float:
        """τ: emitted tokens per verification, NaN without rounds."""
        return self.emitted / self.rounds if self.rounds else float("nan")

    @property
    def draft_calls_per_round(self) -> float:
        """Mean draft calls in a round, NaN without rounds."""
        return self.draft_calls / self.rounds if self.rounds else float("nan")

    def count(self, step: Step, seconds: float) -> None:
        """Add a step and what it took."""
        if step.counted:
            self.tokens += len(step.token_ids)
            self.seconds += seconds
        self.rounds += len(step.rounds)
        self.emitted += sum(len(ended.emitted) for ended in step.rounds)
        self.draft_calls += sum(ended.draft_calls for ended in step.rounds)
        self.nodes += sum(ended.nodes for ended in step.rounds)

    def add(self, other: "Tally") -> None:
        """Add what another one counted."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Ways:
    """Decodes the same prompts in every way, one way after the other; who is first changes from prompt to prompt.

    Args:
        ways: the first one's texts are shown.

    Attributes:
        tallies: what each came to, over the prompts that all of them have decoded; a lone way's include the text that
            was interrupted.
        different: texts that came out differently in some way.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self.ways = ways
        self.tallies = [Tally() for _ in ways]
        self.different = self._turn = 0

    def warm_up(self, prompt_ids: Sequence[int]) -> None:
        """No way pays for what only the first text needs."""
        for way in self.ways:
            way.warm_up(prompt_ids)

    def decode(self, prompts: Sequence[Sequence[int]], show: Show) -> list[list[int]]:
        """Decode prompts together.

        Args:
            prompts: token ids of each.
            show: is given the first way's steps, as they come.

        Returns:
            The new tokens of each text, as the first way has them.
        """
        parts = [Tally() for _ in self.ways]
        texts: list[list[list[int]]] = [[] for _ in self.ways]
        order = [(i + self._turn) % len(self.ways) for i in range(len(self.ways))]
        self._turn += 1
        try:
            for i in order:
                texts[i] = timed(self.ways[i], prompts, parts[i], show if i == 0 else _nowhere)
        except KeyboardInterrupt:
            if len(self.ways) == 1:
                self.tallies[0].add(parts[0])
            raise
        for tally, part in zip(self.tallies, parts, strict=True):
            tally.add(part)
        self.different += sum(any(one != other for other in others) for one, *others in zip(*texts, strict=True))
        return texts[0]


def speculative(name: str, decoder: SpeculativeDecoder, options: Options, *, side_by_side: bool) -> Way:
    """Decoding with a policy.

    Args:
        name: how tables call it.
        decoder: pair and policy.
        options: what texts are decoded with.
        side_by_side: whether prompts are decoded in a batch; then their prefill counts, and texts come whole.
    """

    def round_by_round(prompts: Sequence[Sequence[int]]) -> Iterator[Step]:
        for text, prompt_ids in enumerate(prompts):
            session = decoder.start(prompt_ids, **options)
            yield Step(text, session.token_ids[:], counted=False)
            for ended in decoder.rounds(session):
                yield Step(text, ended.emitted, [ended])

    def together(prompts: Sequence[Sequence[int]]) -> Iterator[Step]:
        for text, done in enumerate(decoder.generate_batch(prompts, **options)):
            yield Step(text, done.token_ids, done.rounds)

    def rehearse(prompt_ids: Sequence[int]) -> None:
        rehearsing = copy.copy(decoder)
        rehearsing.policy = copy.deepcopy(decoder.policy)  # which learns nothing from it
        rehearsing.generate(prompt_ids, **_short(options))

    return Way(name, together if side_by_side else round_by_round, rehearse)


def alone(pair: Pair, options: Options, *, side_by_side: bool) -> Way:
    """The target without speculation, one text after the other.

    Args:
        pair: whose target decodes.
        options: what texts are decoded with.
        side_by_side: whether the ways beside it count the prompts' prefill: then it does too.
    """

    def token_by_token(prompts: Sequence[Sequence[int]]) -> Iterator[Step]:
        for text, prompt_ids in enumerate(prompts):
            for number, token in enumerate(autoregressive(pair, prompt_ids, **options)):
                yield Step(text, [token], counted=number > 0 or side_by_side)

    def rehearse(prompt_ids: Sequence[int]) -> None:
        for _ in autoregressive(pair, prompt_ids, **_short(options)):
            pass

    return Way("autoregressive", token_by_token, rehearse)


def _short(options: Options) -> Options:
    return {**options, "max_new_tokens": min(WARM_UP_TOKENS, options["max_new_tokens"])}


def _nowhere(step: Step) -> None:
    """Shows nothing."""


def timed(way: Way, prompts: Sequence[Sequence[int]], tally: Tally, show: Show = _nowhere) -> list[list[int]]:
    """Run a way to its end and tally its steps; showing them takes none of its seconds.

    Args:
        way: how to decode.
        prompts: token ids of each.
        tally: what the steps are added to.
        show: is given the steps, as they come.

    Returns:
        The new tokens of each text.
    """
    texts: list[list[int]] = [[] for _ in prompts]
    steps = way.steps(prompts)
    while True:
        start = time.perf_counter()
        step = next(steps, None)
        seconds = time.perf_counter() - start
        if step is None:
            return texts
        if not texts[step.text]:
            tally.texts += 1
        tally.count(step, seconds)
        texts[step.text].extend(step.token_ids)
        show(step)
