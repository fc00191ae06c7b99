"""The target alone, a text or several side by side: what speculation is compared with, in text and in time."""

from collections.abc import Iterator, Sequence

import torch

from radar_rl.errors import InputError, ModelOutputError, check_whole
from radar_rl.speculative.graphs import rounded
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.sampling import PositionNoise, Processor, Sampling, choose
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.text import Text


def autoregressive(
    pair: Pair,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    sample_top_k: int = 0,
    sample_top_p: float = 1.0,
    seed: int = 0,
    prefill_chunk: int = 512,
    processor: Processor | None = None,
) -> Iterator[int]:
    """The target alone, a token per forward, with the same cache, noise and ends as speculative decoding.

    Args:
        pair: whose target decodes.
        prompt_ids: token ids, not empty.
        max_new_tokens, temperature, sample_top_k, sample_top_p, seed, prefill_chunk, processor: see ``Options``.

    Raises:
        InputError: the prompt cannot be decoded.
        ModelOutputError: the target's logits are not finite.
    """
    pair.check_prompt(prompt_ids, max_new_tokens)
    check_whole("seed", seed, None)
    check_whole("prefill_chunk", prefill_chunk, 1)
    sampling = Sampling(temperature, sample_top_k, sample_top_p, processor)
    return _alone(pair, prompt_ids, max_new_tokens, sampling, seed, prefill_chunk)


def _alone(
    pair: Pair, prompt_ids: Sequence[int], max_new_tokens: int, sampling: Sampling, seed: int, prefill_chunk: int
) -> Iterator[int]:
    target = pair.target
    noise = PositionNoise(seed, target.vocab_size, target.device)
    room = rounded(len(prompt_ids) + max_new_tokens, pair.arena.bucket) + 1
    lent, give_back = pair.arena.lend(
        ("alone", room), lambda replays: TargetCache(target.model, room, replays=replays())
    )
    cache = lent.fresh()
    zero = torch.zeros(1, 1, dtype=torch.int64, device=target.device)
    prompt = torch.tensor(list(prompt_ids), device=target.device)
    with torch.inference_mode():
        for read in prompt.split(prefill_chunk):
            hidden, _ = target.extend(read, cache)
    for position in range(len(prompt_ids), len(prompt_ids) + max_new_tokens):
        with torch.inference_mode():
            logits = target.logits(hidden[None, -1:])
            step = choose(logits, [position], zero, sampling, [noise], gained=[position - len(prompt_ids)])[0]
            token, finite = torch.cat((step, logits.isfinite().all().long()[None])).tolist()
        if not finite:
            raise ModelOutputError(
                f"the target's lm_head returned NaN or infinite logits at position {position}; no token can be chosen"
            )
        noise.forget_before(position)
        yield token
        if token in pair.eos_token_ids or position == len(prompt_ids) + max_new_tokens - 1:
            give_back()
            return
        with torch.inference_mode():
            hidden = target.step(step, cache)


def autoregressive_batch(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int] | None = None,
    *,
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    sample_top_k: int = 0,
    sample_top_p: float = 1.0,
    prefill_chunk: int = 512,
) -> Iterator[list[Text]]:
    """Decode prompts side by side without a draft, with the cache, noise and ends of speculative decoding.

    A text that ends leaves the batch, as it does in ``SpeculativeBatch``.

    Args:
        pair: whose target decodes.
        prompts: token ids of each, not empty.
        seeds: names each text's noise; None: 0 for all.
        max_new_tokens, temperature, sample_top_k, sample_top_p, prefill_chunk: see ``Options``.

    Yields:
        The texts, the same objects each time: after the prompts' prefill, which brings each one's first token, and
        after every forward.

    Raises:
        InputError: a prompt cannot be decoded, or a seed is no whole number, or there are not as many.
        ModelOutputError: the target's logits are not finite.
    """
    seeds = [0] * len(prompts) if seeds is None else seeds
    if not len(prompts) or len(seeds) != len(prompts):
        raise InputError(f"expected prompts and as many seeds, got {len(prompts)} prompts and {len(seeds)} seeds")
    for ids, seed in zip(prompts, seeds, strict=True):
        pair.check_prompt(ids, max_new_tokens)
        check_whole("seed", seed, None)
    check_whole("prefill_chunk", prefill_chunk, 1)
    sampling = Sampling(temperature, sample_top_k, sample_top_p)
    noises = [PositionNoise(seed, pair.target.vocab_size, pair.target.device) for seed in seeds]
    texts = [
        Text(len(ids), max_new_tokens, pair.eos_token_ids, noise) for ids, noise in zip(prompts, noises, strict=True)
    ]
    return _side_by_side(pair, prompts, texts, sampling, prefill_chunk)


def _side_by_side(
    pair: Pair, prompts: Sequence[Sequence[int]], texts: list[Text], sampling: Sampling, prefill_chunk: int
) -> Iterator[list[Text]]:
    target, device = pair.target, pair.target.device
    longest = rounded(max(len(ids) for ids in prompts) + texts[0].max_new_tokens, pair.arena.bucket)
    lent, give_back = pair.arena.lend(
        ("alone", len(texts), longest),
        lambda replays: TargetCache(target.model, longest + 1, len(texts), replays=replays()),
    )
    cache = lent.fresh()
    with torch.inference_mode():
        for row, (ids, text) in enumerate(zip(prompts, texts, strict=True)):
            part = cache.row(row)
            for read in torch.tensor(list(ids), device=device).split(prefill_chunk):
                hidden, _ = target.extend(read, part)
            _emit(target.logits(hidden[None, -1:]), [text], sampling)
    cache.settle([len(ids) for ids in prompts])
    yield texts
    active = list(range(len(texts)))
    while True:
        staying = [row for row, i in enumerate(active) if not texts[i].finished]
        if not staying:
            give_back()
            return
        if len(staying) < len(active):
            cache.keep(staying)
            active = [active[row] for row in staying]
        going = [texts[i] for i in active]
        with torch.inference_mode():
            roots = torch.tensor([[text.token_ids[-1]] for text in going], device=device)
            positions = torch.tensor([[text.position] for text in going], device=device)
            seen = torch.arange(cache.start + 1, device=device)
            visible = (seen < positions[:, :, None]) | (seen == cache.start)  # what a text has, and its newest token
            hidden, _ = target.over_tree(roots, positions, visible, cache)
            cache.commit(torch.zeros_like(roots), [1] * len(going))
            _emit(target.logits(hidden), going, sampling)
        yield texts


def _emit(logits: torch.Tensor, texts: Sequence[Text], sampling: Sampling) -> None:
    """A token more of each text: [B, 1, vocabulary] float32."""
    reach = [text.prompt_length + len(text.token_ids) for text in texts]
    here = torch.zeros(len(texts), 1, dtype=torch.int64, device=logits.device)
    chosen = choose(logits, reach, here, sampling, [text.noise for text in texts])
    *tokens, finite = torch.cat((chosen[:, 0], logits.isfinite().all().long()[None])).tolist()
    if not finite:
        raise ModelOutputError(
            f"the target's lm_head returned NaN or infinite logits at positions {reach}; no token can be chosen"
        )
    for text, token in zip(texts, tokens, strict=True):
        text.emit([token])
        text.noise.forget_before(text.position)
