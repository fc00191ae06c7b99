"""Live decoding of the same texts in several ways: seconds, rounds and draft calls, kept as they are measured."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from radar_rl.benchmarks.experiment import Experiment
from radar_rl.progress import track
from radar_rl.rollouts import held_out, trace_settings
from radar_rl.rollouts.again import texts_again
from radar_rl.rollouts.writing import WrittenText
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.runtime.ways import Tally, Way, alone, speculative, timed
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.text import Options

ALONE = "autoregressive"


@dataclass(frozen=True)
class Asked:
    """A text to decode.

    Attributes:
        name: of the text, as a trace calls its sequence.
        task, prompt_id: whose it is.
        prompt_ids: token ids up to the answer.
        seed: of its sampling.
        digest: of the answer that a trace holds, see ``digest_of``; None: nobody wrote it yet.
    """

    name: str
    task: str
    prompt_id: str
    prompt_ids: tuple[int, ...]
    seed: int
    digest: str | None = None

    @classmethod
    def of(cls, text: WrittenText) -> Self:
        """A text of a trace, to be decoded anew."""
        prompt = text.work.prompt
        digest = digest_of(text.completion_ids)
        return cls(text.sequence_id, prompt.task, prompt.prompt_id, text.prompt_ids, text.seed or 0, digest)


def held_out_texts(traces: str, fraction: float) -> list[Asked]:
    """The texts of a collection that nobody trained or tuned on, in their order.

    Args:
        traces: folder of a finished collection.
        fraction: share of the prompts that is held out.
    """
    written, _ = texts_again(traces, trace_settings(traces).target)
    kept = held_out([text.work.prompt.prompt_id for text in written], fraction)
    return [Asked.of(text) for text, keep in zip(written, kept, strict=True) if keep]


def digest_of(token_ids: Sequence[int]) -> str:
    """Hash of an answer's tokens: equal ones are the same text."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:16]


def decode_all(
    work: Experiment,
    pair: Pair,
    decoders: Mapping[str, SpeculativeDecoder],
    texts: Sequence[Asked],
    options: Options,
) -> None:
    """Decode every text with the target alone and with every decoder, one after the other, and add a row for each.

    Who is first changes from text to text, so that a machine's drift meets all alike; what ``work`` has already is not
    decoded again. Rows: ``policy`` (a decoder's name, or ``autoregressive``), ``text``, ``task``, ``prompt_id``,
    ``tokens`` and ``seconds`` (prefill and the first token, which it brings, not counted), ``rounds``,
    ``draft_calls``, ``nodes`` verified, ``digest`` of the text, and ``as_traced``, whether it is the trace's.

    Args:
        work: what keeps the rows.
        pair: whose target decodes alone.
        decoders: by the names that rows call them.
        texts: what to decode.
        options: length and sampling; each text has its own seed.
    """
    names = [ALONE, *decoders]
    todo = [
        (number, text, name)
        for number, text in enumerate(texts)
        for name in _rotated(names, number)
        if not work.has(text=text.name, policy=name)
    ]
    warm = set[str]()
    for _, text, name in track(todo, len(todo), "texts decoded"):
        way = _way(name, pair, decoders, {**options, "seed": text.seed})
        if name not in warm:  # no way pays for what only its first text needs
            way.warm_up(text.prompt_ids)
            warm.add(name)
        tally = Tally()
        [token_ids] = timed(way, [text.prompt_ids], tally)
        digest = digest_of(token_ids)
        work.add(
            policy=name,
            text=text.name,
            task=text.task,
            prompt_id=text.prompt_id,
            tokens=tally.tokens,
            seconds=tally.seconds,
            rounds=tally.rounds,
            draft_calls=tally.draft_calls,
            nodes=tally.nodes,
            digest=digest,
            as_traced=None if text.digest is None else digest == text.digest,
        )


def _rotated(names: Sequence[str], number: int) -> list[str]:
    """The names in turn, another one first for each number."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _way(name: str, pair: Pair, decoders: Mapping[str, SpeculativeDecoder], options: Options) -> Way:
    if name == ALONE:
        return alone(pair, options, side_by_side=False)
    return speculative(name, decoders[name], options, side_by_side=False)
