"""The trace is what decoding live would have brought, at every position and depth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_trace import MadeTrace

from radar_rl.errors import InputError
from radar_rl.policies import RandomStop, StaticDepth
from radar_rl.rollouts.trace import NO_RANK, Sequences, TraceSettings, accepted_tokens
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.speculative import Pair, load_pair
from radar_rl.speculative.pair import stock_target


def trace_of(pair: Pair, prompt: list[int], new: list[int], batch: int, size: int = 60, **shape: int) -> MadeTrace:
    ids = [*prompt, *new]
    depth, k = shape.get("max_depth", 8), shape.get("top_k", 10)
    traced = trace_sequence(pair, ids, len(prompt), max_depth=depth, top_k=k, tree_size=size, positions_per_batch=batch)
    rows = len(traced.confidences)
    positions = np.arange(len(prompt), len(ids) - 1, dtype=np.int32)
    return MadeTrace(
        TraceSettings("t", "d", depth, k, size),
        Sequences(["s"], ["t"], ["p"], np.array([len(prompt)]), np.array([len(ids)])),
        np.zeros(rows, np.int32),
        positions,
        traced.confidences,
        accepted_tokens(traced.ranks, len(ids) - 1 - positions, top_k=k, tree_size=size),
        np.zeros(rows, bool),
        ranks=traced.ranks,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_accepted_lengths_are_those_of_live_decoding(
    pocket: Pair, shipped_prompts: list[str], temperature: float
) -> None:
    rounds = 0
    for seed, prompt in enumerate(shipped_prompts):
        ids = pocket.encode_prompt(prompt)
        out = SpeculativeDecoder(pocket, RandomStop(0.75, seed)).generate(
            ids, max_new_tokens=64, temperature=temperature, seed=seed
        )
        trace = trace_of(pocket, ids, out.token_ids, 17)
        for done in out.rounds:
            row = done.position - len(ids)
            assert trace.accepted[row, done.draft_calls - 1] == done.accepted
            emitted, _ = trace.stop(np.array([row]), done.draft_calls)
            assert emitted == [len(done.emitted)]
            rounds += 1
    assert rounds > 100


def test_smaller_trees_are_read_from_the_trace_of_larger_ones(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = pocket.encode_prompt(shipped_prompts[1])
    new = SpeculativeDecoder(pocket, StaticDepth(8)).generate(ids, max_new_tokens=48).token_ids
    large = trace_of(pocket, ids, new, 64)
    for size in (2, 7, 12, 33):
        decoder = SpeculativeDecoder(pocket, RandomStop(0.8, size), tree_size=size)
        for done in decoder.generate(ids, max_new_tokens=48).rounds:
            row = done.position - len(ids)
            assert large.at(size).accepted[row, done.draft_calls - 1] == done.accepted


def test_a_widened_first_level_is_read_from_the_same_trace(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = pocket.encode_prompt(shipped_prompts[2])
    decoder = SpeculativeDecoder(pocket, StaticDepth(1), widen_first_level=True)
    out = decoder.generate(ids, max_new_tokens=48, temperature=1.0)
    accepted = trace_of(pocket, ids, out.token_ids, 64).at(60, widen_first_level=True).accepted
    assert [accepted[r.position - len(ids), 0] for r in out.rounds] == [r.accepted for r in out.rounds]


def test_the_batch_of_positions_changes_nothing(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    new = SpeculativeDecoder(pocket, StaticDepth(8)).generate(ids, max_new_tokens=32).token_ids
    one, many = trace_of(pocket, ids, new, 1), trace_of(pocket, ids, new, 256)
    assert np.array_equal(one.accepted, many.accepted)
    np.testing.assert_allclose(
        one.confidences.astype(np.float32), many.confidences.astype(np.float32), atol=2e-2, rtol=2e-3
    )


def test_ranks_along_a_path_only_grow_and_depths_beyond_the_calls_have_none(
    pocket: Pair, shipped_prompts: list[str]
) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    new = SpeculativeDecoder(pocket, StaticDepth(8)).generate(ids, max_new_tokens=48).token_ids
    ranks = trace_of(pocket, ids, new, 64).ranks.astype(np.int64)
    assert (np.diff(ranks, axis=2) >= 0).all()
    beyond = np.triu(np.ones((8, 8), bool), 1)
    assert (ranks[:, beyond] == NO_RANK).all()
    assert (ranks[:, 7, 0] != NO_RANK).any()


def test_a_text_of_one_token_has_no_rows_and_a_text_without_prompt_is_refused(tiny_pair: tuple[Path, Path]) -> None:
    pair = load_pair(*tiny_pair)
    shape = {"max_depth": 2, "top_k": 3, "tree_size": 8}
    traced = trace_sequence(pair, [5, 6], 1, **shape)
    assert traced.confidences.shape == (0, 2, 3)
    assert traced.ranks.shape == (0, 2, 2)
    with pytest.raises(InputError, match="prompt_length"):
        trace_sequence(pair, [5, 6], 0, **shape)


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_judging_counts_what_transformers_own_forward_counts(
    pocket: Pair, shipped_prompts: list[str], chunk: int
) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    greedy = SpeculativeDecoder(pocket, StaticDepth(8)).generate(ids, max_new_tokens=24).token_ids
    strange = np.random.default_rng(0).integers(3, 4096, size=24).tolist()
    stock = stock_target(pocket, "pocket")
    for new in (greedy, strange, [*greedy[:9], *strange], greedy[:1]):
        text = torch.tensor([[*ids, *new]])
        with torch.inference_mode():
            scores = stock(text).logits[0, len(ids) - 1 : -1].double().log_softmax(dim=-1)
        expected = int((scores.argmax(dim=-1) == text[0, len(ids) :]).sum())
        least = int((scores.gather(1, text[0, len(ids) :, None]) < np.log(1e-6)).sum())
        judged = trace_sequence(
            pocket, [*ids, *new], len(ids), max_depth=2, top_k=3, tree_size=8, positions_per_batch=chunk, judge=True
        )
        assert (judged.greedy, judged.improbable) == (expected, least)
        assert expected == len(new) if new == greedy else least > 0 or new == greedy[:1]
    unjudged = trace_sequence(pocket, [*ids, *strange], len(ids), max_depth=2, top_k=3, tree_size=8)
    assert (unjudged.greedy, unjudged.improbable) == (0, 0)
    nothing = trace_sequence(pocket, ids, len(ids), max_depth=2, top_k=3, tree_size=8, judge=True)
    assert (nothing.greedy, nothing.improbable) == (0, 0)
