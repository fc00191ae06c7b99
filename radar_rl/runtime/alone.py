"""The target alone: what speculative decoding is compared with, in text and in time."""

from collections.abc import Iterator, Sequence

import torch

from radar_rl.errors import ModelOutputError, check_whole
from radar_rl.speculative.graphs import rounded
from radar_rl.speculative.pair import Pair
from radar_rl.speculative.sampling import PositionNoise, Processor, Sampling, choose
from radar_rl.speculative.target import TargetCache


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
