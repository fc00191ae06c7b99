"""The texts of a collection: the target writes them, or a server's log gives them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from radar_rl.errors import InputError
from radar_rl.policies.static import StaticDepth
from radar_rl.rollouts.tasks import Skipped, too_long
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.prompts import Prompt
from radar_rl.speculative.text import Options

TEXTS_PER_BATCH = 32
DEFAULTS: Options = {"max_new_tokens": 96, "seed": 0}


@dataclass(frozen=True)
class Work:
    """One conversation to write: the ``sample``-th of a prompt.

    Attributes:
        prompt: what the user says.
        prompt_ids: the first turn.
        sample: its number.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    sample: int

    def sequence_id(self, turn: int) -> str:
        """``TASK/PROMPT_ID/SAMPLE/TURN``, the name of the text of a turn (from 0)."""
        return f"{self.prompt.task}/{self.prompt.prompt_id}/{self.sample}/{turn}"

    @property
    def said(self) -> str:
        """Hash of what the user says: equal ones are the same conversation."""
        said = f"{','.join(map(str, self.prompt_ids))};{json.dumps(self.prompt.later_turns)}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class WrittenText:
    """What the target answered to one turn of a conversation.

    Attributes:
        work: the conversation.
        turn: counted from 0.
        prompt_ids: the conversation up to the answer.
        completion_ids: the answer, the end token included where there is one.
        seed: of its sampling; None where it was given.
    """

    work: Work
    turn: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    seed: int | None

    @property
    def sequence_id(self) -> str:
        """``TASK/PROMPT_ID/SAMPLE/TURN``."""
        return self.work.sequence_id(self.turn)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and completion."""
        return self.prompt_ids + self.completion_ids


def sequence_seed(seed: int, prompt_id: str, sample: int) -> int:
    """The sampling seed of one conversation, below 2⁶³: a stable hash, so that no two prompts share their noise.

    Its turns share it: noise is indexed by absolute position, and their answers stand at different ones.
    """
    digest = hashlib.sha256(f"{seed}/{sample}/{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def write_texts(
    pair: Pair, works: Sequence[Work], *, texts_per_batch: int = TEXTS_PER_BATCH, **options: Unpack[Options]
) -> tuple[list[WrittenText], list[Skipped]]:
    """Let the target write every turn of every conversation, its own answers fed back.

    All first turns are written before the second ones, in batches decoded side by side with speculation: lossless, so
    the texts are the target's own (up to ties of two logits within floating-point error).

    Args:
        pair: target and draft head.
        works: the conversations; their first turns must fit the context (``fitting``).
        texts_per_batch: texts decoded side by side.
        options: length and sampling of an answer; each conversation's own seed derives from ``seed``, see
            ``sequence_seed``.

    Returns:
        The texts, a conversation's turns one after the other, in the order of ``works``; and the turns that no longer
        fitted the context, or followed one that did not.

    Raises:
        InputError: a prompt cannot be decoded, or a pair without tokenizer meets a conversation.
        ModelOutputError: a model returned values that no token may be chosen from.
    """
    _, written, skipped = _converse(pair, works, texts_per_batch, options, answer_last=True)
    return [text for turns in written for text in turns], skipped


def write_prompts(
    pair: Pair, works: Sequence[Work], *, texts_per_batch: int = TEXTS_PER_BATCH, **options: Unpack[Options]
) -> tuple[list[list[tuple[int, ...]]], list[Skipped]]:
    """As ``write_texts``, the last answers left out: what the target is to answer in each turn.

    Returns:
        Of each conversation the token ids up to the answer, of every turn that fits; and the turns that do not.
    """
    prompts, _, skipped = _converse(pair, works, texts_per_batch, options, answer_last=False)
    return prompts, skipped


def _converse(
    pair: Pair, works: Sequence[Work], texts_per_batch: int, options: Options, *, answer_last: bool
) -> tuple[list[list[tuple[int, ...]]], list[list[WrittenText]], list[Skipped]]:
    """Wave by wave, a turn each: what was to be answered, the answers, and the turns that did not fit."""
    options = DEFAULTS | options
    for prompt in (work.prompt for work in works if work.prompt.later_turns):
        if pair.tokenizer is None or prompt.text is None:
            raise InputError(f"{prompt.label}: a conversation needs text and a target with a tokenizer; give one turn")
    seeds = [sequence_seed(options["seed"], work.prompt.prompt_id, work.sample) for work in works]
    prompts = [[work.prompt_ids] for work in works]
    written: list[list[WrittenText]] = [[] for _ in works]
    skipped: list[Skipped] = []
    turn, talking = 0, list(range(len(works)))
    while talking:
        more = [n for n in talking if turn < len(works[n].prompt.later_turns)]
        waiting = talking if answer_last else more
        for first in range(0, len(waiting), texts_per_batch):
            batch = waiting[first : first + texts_per_batch]
            drawn = [seeds[n] for n in batch]
            decoded = _decoder(pair, len(batch)).generate_batch([prompts[n][turn] for n in batch], drawn, **options)
            for n, done in zip(batch, decoded, strict=True):
                answer = tuple(done.token_ids)
                written[n].append(WrittenText(works[n], turn, prompts[n][turn], answer, seeds[n]))
        turn += 1
        talking = []
        for n in more:
            following = _next_prompt(pair, works[n], written[n])
            reason = too_long(pair, len(following), options["max_new_tokens"])
            if reason:
                skipped.extend(_no_turns_from(works[n], turn, reason))
            else:
                prompts[n].append(following)
                talking.append(n)
    return prompts, written, skipped


def _next_prompt(pair: Pair, work: Work, turns: Sequence[WrittenText]) -> tuple[int, ...]:
    """Token ids of a conversation up to its next answer, those so far without their end tokens."""
    said = [[i for i in text.completion_ids if i not in pair.eos_token_ids] for text in turns]
    answers = [pair.tokenizer.decode(ids, skip_special_tokens=True) for ids in said]
    return tuple(work.prompt.encode(pair, answers))


def _no_turns_from(work: Work, turn: int, reason: str) -> list[Skipped]:
    """A turn that did not fit, and those that would have followed it."""
    prompt, which = work.prompt, f"sample {work.sample}: " if work.sample else ""
    later = range(turn + 1, len(prompt.later_turns) + 1)
    return [
        Skipped(prompt.task, prompt.prompt_id, turn, which + reason),
        *(Skipped(prompt.task, prompt.prompt_id, t, f"{which}turn {turn} was skipped") for t in later),
    ]


def _decoder(pair: Pair, texts: int) -> SpeculativeDecoder:
    """The decoder that writes this many texts side by side fastest; what it drafts does not change them.

    Together their trees should hold about 128 nodes, which a verification takes as readily as a few: alone a text
    gets a deep tree of 60, many get one draft call each and the best of its tokens. ``radar-rl bench collect limit=8
    slow_limit=1 texts_per_batch=N`` prints, with ``pocket`` on two CPU cores, 231 tokens/s for N = 1, 678 for 8 and
    1,175 for 32.
    """
    top_k = min(10, len(pair.head.draft_to_target))
    nodes = min(max(128 // texts, 4), 60)
    depth = 1 if nodes < top_k + 1 else 4
    return SpeculativeDecoder(pair, StaticDepth(depth), max_depth=depth, top_k=top_k, tree_size=nodes, strict=True)


def given_texts(pair: Pair, prompts: Sequence[Prompt]) -> tuple[list[WrittenText], list[Skipped]]:
    """Texts that a server logged: prompts with completions, as ``load_prompts(…, completions=True)`` reads them.

    Ids are used exactly as given. A completion in words is tokenised without special tokens, so it ends with no end
    token and counts as cut by length; give ``completion_ids`` to say that it ended.

    Args:
        pair: the target that wrote them, and its head.
        prompts: with ``completion`` or ``completion_ids``.

    Returns:
        The texts, and those that are longer than the context.

    Raises:
        InputError: ids are outside the vocabulary, words meet a pair without tokenizer, or no text fits.
    """
    texts: list[WrittenText] = []
    skipped: list[Skipped] = []
    for prompt in prompts:
        prompt_ids, completion_ids = tuple(prompt.encode(pair)), _completion(pair, prompt)
        reason = too_long(pair, len(prompt_ids), len(completion_ids))
        if reason:
            skipped.append(Skipped(prompt.task, prompt.prompt_id, 0, reason))
            continue
        for name, ids in (("prompt", prompt_ids), ("completion", completion_ids)):
            outside = [i for i in ids if not 0 <= i < pair.target.vocab_size]
            if outside:
                raise InputError(
                    f"{prompt.label}: {name}: token id {outside[0]} is outside the target's vocabulary of "
                    f"{pair.target.vocab_size}; are these another model's ids?"
                )
        texts.append(WrittenText(Work(prompt, prompt_ids, 0), 0, prompt_ids, completion_ids, None))
    if not texts:
        raise InputError(f"no text fits: {skipped[0].reason}" if skipped else "no texts")
    return texts, skipped


def _completion(pair: Pair, prompt: Prompt) -> tuple[int, ...]:
    if prompt.completion_ids is not None:
        return prompt.completion_ids
    if prompt.completion is None:
        raise InputError(f"{prompt.label}: no completion")
    if pair.tokenizer is None:
        raise InputError(f"{prompt.label}: the target's folder has no tokenizer: give completion_ids instead of text")
    return tuple(pair.tokenizer(prompt.completion, add_special_tokens=False)["input_ids"])
