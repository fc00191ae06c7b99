"""The session: losslessness, where texts end, and what it refuses."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radar_rl.errors import InputError, ModelOutputError
from radar_rl.policies import Policy, RandomStop, StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import Pair, SpeculativeSession
from radar_rl.speculative.pair import stock_target
from radar_rl.speculative.sampling import PositionNoise, Sampling, choose, process


def decode(pair: Pair, policy: Policy, prompt_ids: Sequence[int], **sampling: float) -> list[int]:
    return SpeculativeDecoder(pair, policy).generate(prompt_ids, **sampling).token_ids  # type: ignore[arg-type]


def test_greedy_text_is_that_of_transformers_generate(pocket: Pair, shipped_prompts: list[str]) -> None:
    stock: Any = stock_target(pocket, "pocket")
    for prompt in shipped_prompts:
        ids = pocket.encode_prompt(prompt)
        expected = stock.generate(torch.tensor([ids]), max_new_tokens=48, do_sample=False)[0, len(ids) :]
        assert decode(pocket, StaticDepth(8), ids, max_new_tokens=48) == expected.tolist()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    probability=st.floats(0, 1),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_k=st.sampled_from([0, 20]),
    top_p=st.sampled_from([1.0, 0.9]),
    which=st.integers(0, 7),
)
def test_the_text_is_the_same_under_every_policy(
    pocket: Pair,
    shipped_prompts: list[str],
    seed: int,
    probability: float,
    temperature: float,
    top_k: int,
    top_p: float,
    which: int,
) -> None:
    ids = pocket.encode_prompt(shipped_prompts[which])
    sampling = {
        "max_new_tokens": 40,
        "temperature": temperature,
        "sample_top_k": top_k,
        "sample_top_p": top_p,
        "seed": seed,
    }
    alone = list(autoregressive(pocket, ids, **sampling))  # type: ignore[arg-type]
    assert decode(pocket, RandomStop(probability, seed), ids, **sampling) == alone
    assert decode(pocket, StaticDepth(8), ids, **sampling) == alone


def test_trees_are_closed_under_ancestors_and_ordered_by_level(pocket: Pair, shipped_prompts: list[str]) -> None:
    session = SpeculativeSession(pocket, pocket.encode_prompt(shipped_prompts[0]), max_new_tokens=40)
    while not session.finished:
        session.begin()
        session.draft()
        session.draft()
        tree = session.verify().tree
        assert tree.parents[0] == -1
        assert tree.depths[0] == 0
        assert len(tree.tokens) == 60
        for node in range(1, 60):
            parent = tree.parents[node]
            assert parent < node
            assert tree.depths[node] == tree.depths[parent] + 1
            assert tree.log_probs[node] <= tree.log_probs[parent]


def test_widening_the_first_level_verifies_a_full_tree_after_one_call(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    plain = SpeculativeDecoder(pocket, StaticDepth(1)).generate(ids, max_new_tokens=30)
    wide = SpeculativeDecoder(pocket, StaticDepth(1), widen_first_level=True).generate(ids, max_new_tokens=30)
    assert wide.token_ids == plain.token_ids
    assert {r.nodes for r in plain.rounds} == {11}
    assert {r.nodes for r in wide.rounds} == {60}
    assert len(wide.rounds) <= len(plain.rounds)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20])
def test_the_text_is_cut_exactly_at_its_length(pocket: Pair, shipped_prompts: list[str], length: int) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    out = SpeculativeDecoder(pocket, StaticDepth(8)).generate(ids, max_new_tokens=length)
    assert len(out.token_ids) == length
    assert 1 + sum(len(r.emitted) for r in out.rounds) == length
    assert all(r.accepted <= len(r.emitted) <= r.accepted + 1 for r in out.rounds)


def test_an_end_token_inside_an_accepted_path_ends_the_text(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    full = SpeculativeDecoder(pocket, StaticDepth(8)).generate(ids, max_new_tokens=40)
    inside = next(r for r in full.rounds if r.accepted >= 2)  # a token accepted before the path's last one
    ending = inside.emitted[0]
    cut = full.token_ids[: full.token_ids.index(ending) + 1]
    other = Pair(**{**pocket.__dict__, "eos_token_ids": frozenset({ending})})
    assert SpeculativeDecoder(other, StaticDepth(8)).generate(ids, max_new_tokens=40).token_ids == cut


@pytest.mark.parametrize(
    ("prompt_ids", "new_tokens", "message"),
    [
        ([], 8, "empty prompt"),
        ([5, 10**6], 8, "outside the vocabulary"),
        ([5, -3], 8, "outside the vocabulary"),
        ([5] * 1000, 96, "prompt too long"),
        ([5], 0, "max_new_tokens: expected a whole number ≥ 1"),
        ([5], 2.5, "max_new_tokens: expected a whole number"),
        ([5], True, "max_new_tokens: expected a whole number"),
        ("Hello", 8, "flat list of token ids"),
        (["5"], 8, "flat list of token ids"),
        ([5.0], 8, "flat list of token ids"),
        ([True], 8, "flat list of token ids"),
        ([[5, 6]], 8, "flat list of token ids"),
        ([[5], [6, 7]], 8, "flat list of token ids"),
        (None, 8, "flat list of token ids"),
    ],
)
def test_prompts_that_cannot_be_decoded_are_refused(
    pocket: Pair, prompt_ids: Any, new_tokens: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SpeculativeSession(pocket, prompt_ids, max_new_tokens=new_tokens)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected 0 or a finite number"),
        ({"temperature": 1e-38}, "temperature: expected 0 or a finite number"),  # logits would overflow
        ({"temperature": float("nan")}, "temperature: expected 0 or a finite number"),
        ({"temperature": "1"}, "temperature: expected 0 or a finite number"),
        ({"sample_top_p": 0.0}, "sample_top_p: expected a number above 0"),
        ({"sample_top_k": 2.5}, "sample_top_k: expected a whole number"),
        ({"seed": 1.5}, "seed: expected a whole number"),
        ({"prefill_chunk": 0}, "prefill_chunk: expected a whole number"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(pocket: Pair, option: dict[str, Any], message: str) -> None:
    decoder = SpeculativeDecoder(pocket, StaticDepth(2))
    for decode_ in (decoder.generate, decoder.stream, partial(autoregressive, pocket)):
        with pytest.raises(InputError, match=message):
            decode_([5, 6], **option)  # at the call, not at the first token


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"max_depth": 0}, "max_depth: expected a whole number ≥ 1"),
        ({"top_k": 2.0}, "top_k: expected a whole number"),
        ({"top_k": 5000}, "top_k: expected at most 2048, the draft vocabulary"),
        ({"tree_size": 1}, "tree_size: expected a whole number ≥ 2"),
        ({"tree_size": 3000, "widen_first_level": True}, "a widened first level holds at most 2049"),
    ],
    ids=str,
)
def test_trees_that_cannot_be_are_refused(pocket: Pair, shape: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpeculativeSession(pocket, [5, 6], **shape)


def test_a_tree_may_be_larger_than_the_draft_vocabulary(pocket: Pair) -> None:
    out = SpeculativeDecoder(pocket, StaticDepth(2), max_depth=2, top_k=50, tree_size=2500).generate([5, 6, 7])
    assert out.token_ids == list(autoregressive(pocket, [5, 6, 7]))
    assert max(r.nodes for r in out.rounds) == 2500


def test_a_state_stays_what_it_was(pocket: Pair, shipped_prompts: list[str]) -> None:
    session = SpeculativeSession(pocket, pocket.encode_prompt(shipped_prompts[0]))
    states = [session.begin(), session.draft(), session.draft()]
    for state in reversed(states):
        assert np.isfinite(state.confidences[: state.depth]).all()
        assert np.isneginf(state.confidences[state.depth :]).all()
    before = states[0].confidences.copy()
    session.verify()
    late = session.begin()
    session.verify()
    session.begin()
    assert np.array_equal(states[0].confidences, before)
    with pytest.raises(RuntimeError, match="after its round was over"):
        _ = late.confidences
    with pytest.raises(RuntimeError, match="after its tree had grown or been verified"):
        _ = late.sources


def test_calls_out_of_turn_are_refused(pocket: Pair, shipped_prompts: list[str]) -> None:
    session = SpeculativeSession(pocket, pocket.encode_prompt(shipped_prompts[0]), max_depth=1)
    with pytest.raises(RuntimeError, match="begin"):
        session.verify()
    session.begin()
    with pytest.raises(RuntimeError, match="max_depth"):
        session.draft()
    with pytest.raises(RuntimeError, match="between two rounds"):
        session.begin()


def test_nan_from_either_model_raises_and_emits_nothing(pocket: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pocket.encode_prompt("Two plus two?")
    session = SpeculativeSession(pocket, ids)
    session.begin()
    monkeypatch.setattr(pocket.target, "output_layer", lambda hidden: torch.full((*hidden.shape[:-1], 4096), torch.nan))
    before = list(session.token_ids)
    with pytest.raises(ModelOutputError, match="target's lm_head"):
        session.verify()
    assert session.token_ids == before
    monkeypatch.undo()
    session = SpeculativeSession(pocket, ids)
    monkeypatch.setattr(
        type(pocket.head), "logits", lambda self, hidden: torch.full((*hidden.shape[:-1], 64), torch.nan)
    )
    before = list(session.token_ids)
    with pytest.raises(ModelOutputError, match="draft head's lm_head"):
        _ = session.begin().confidences
    with pytest.raises(ModelOutputError, match="draft head's lm_head"):  # also under a policy that never looks
        session.verify()
    assert session.token_ids == before


def test_the_law_of_a_token_is_the_softmax_of_the_processed_logits() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, 0.5]])
    sampling = Sampling(temperature=0.8, top_k=4)
    expected = process(logits, sampling).softmax(-1)[0].numpy()
    draws = 20_000
    counts = np.zeros(6)
    zero = torch.zeros(1, 1, dtype=torch.int64)
    noise = PositionNoise(3, 6, torch.device("cpu"))
    for position in range(draws):
        counts[int(choose(logits[None], [position], zero, sampling, [noise]))] += 1
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = ((counts[kept] - draws * expected[kept]) ** 2 / (draws * expected[kept])).sum()
    assert chi_square < 16.27  # the 99.9 % quantile with 3 degrees of freedom


def test_sampling_is_processed_as_transformers_does() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    expected = logits
    for warper in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.8)):
        expected = warper(None, expected)
    torch.testing.assert_close(process(logits, Sampling(0.7, 20, 0.8)), expected)
