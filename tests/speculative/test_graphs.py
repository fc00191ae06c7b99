"""Captured passes: replayed as CUDA graphs are, the function of the first call on new inputs, on any device."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from capturing import Capturing

from radar_rl.policies import ConfidenceThreshold, Policy, RandomStop, StaticDepth
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import Pair, load_pair
from radar_rl.speculative import graphs as graphs_module
from radar_rl.speculative.graphs import Arena, Replays
from radar_rl.speculative.text import DRAFT_SOURCES, DraftSource, Options


@pytest.fixture(params=["pocket", "pocket-eagle2"])
def plain(request: pytest.FixtureRequest) -> Pair:
    return load_pair("pocket", request.param)


@pytest.fixture
def capturing() -> Capturing:
    return Capturing()


@pytest.fixture
def captured(plain: Pair, capturing: Capturing, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(graphs_module, "BUCKET", 64)
    for module in ("target", "heads"):
        monkeypatch.setattr(f"radar_rl.speculative.{module}.BUCKET", 64)
    return replace(plain, arena=Arena(capturing))


@pytest.mark.parametrize("source", DRAFT_SOURCES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_texts_are_the_same(
    plain: Pair, captured: Pair, shipped_prompts: list[str], source: DraftSource, temperature: float
) -> None:
    prompts = [plain.encode_prompt(text) for text in shipped_prompts[:3]]
    options: Options = {"max_new_tokens": 50, "temperature": temperature}
    policies: list[Policy] = [StaticDepth(1), StaticDepth(5), RandomStop(0.6, 1), ConfidenceThreshold(0.4)]
    expected = [list(autoregressive(plain, ids, seed=i, **options)) for i, ids in enumerate(prompts)]
    assert [list(autoregressive(captured, ids, seed=i, **options)) for i, ids in enumerate(prompts)] == expected
    for policy in policies:
        decoder = SpeculativeDecoder(captured, policy, max_depth=5, tree_size=24, draft_source=source)
        assert [out.token_ids for out in decoder.generate_batch(prompts, range(3), **options)] == expected
        assert decoder.generate(prompts[1], seed=1, **options).token_ids == expected[1]


def test_rounds_are_the_same_and_trees_too(plain: Pair, captured: Pair, shipped_prompts: list[str]) -> None:
    ids = plain.encode_prompt(shipped_prompts[0])
    for depth in (1, 3):
        ours, theirs = (
            SpeculativeDecoder(pair, StaticDepth(depth), max_depth=4).generate(ids, max_new_tokens=60).rounds
            for pair in (captured, plain)
        )
        assert [(r.position, r.draft_calls, r.emitted) for r in ours] == [
            (r.position, r.draft_calls, r.emitted) for r in theirs
        ]
        for one, other in zip(ours, theirs, strict=True):
            log_probs = [torch.tensor(r.arrays[3]).sort().values for r in (one, other)]
            torch.testing.assert_close(*log_probs, rtol=0, atol=1e-4)


def test_a_pass_is_captured_once_for_its_shape_and_for_all_texts(
    plain: Pair, capturing: Capturing, shipped_prompts: list[str]
) -> None:
    captured = replace(plain, arena=Arena(capturing))
    ids = captured.encode_prompt(shipped_prompts[0])
    assert len(ids) + 50 < graphs_module.BUCKET
    decoder = SpeculativeDecoder(captured, StaticDepth(4), max_depth=4)
    rounds = len(decoder.generate(ids, max_new_tokens=20).rounds)
    assert capturing.captures == 5  # four draft calls, the first of which reads the text, and the verification
    assert capturing.replays == 5 * rounds
    decoder.generate(ids, max_new_tokens=20)
    for depth in (1, 2):  # fewer candidates than the tree has room for are padded
        SpeculativeDecoder(captured, StaticDepth(depth), max_depth=4).generate(ids, max_new_tokens=20)
    assert capturing.captures == 5


def test_texts_side_by_side_do_not_share_caches(plain: Pair, capturing: Capturing, shipped_prompts: list[str]) -> None:
    captured = replace(plain, arena=Arena(capturing))
    ids = captured.encode_prompt(shipped_prompts[0])
    decoder = SpeculativeDecoder(captured, StaticDepth(2), max_depth=2)
    one, other = decoder.start(ids, max_new_tokens=30), decoder.start(ids, max_new_tokens=30)
    for _ in zip(decoder.rounds(one), decoder.rounds(other), strict=True):
        pass
    assert one.token_ids == other.token_ids == decoder.generate(ids, max_new_tokens=30).token_ids
    assert capturing.captures == 2 * 3


def test_few_free_caches_are_kept(plain: Pair, capturing: Capturing) -> None:
    arena = Arena(capturing, most=2)
    made = []

    def lend(key: int) -> Callable[[], None]:
        _, give_back = arena.lend(key, lambda replays: made.append(key))
        return give_back

    for key in (1, 2, 3, 3, 2, 1):
        lend(key)()
    assert made == [1, 2, 3, 1]  # the third and fourth found theirs; 1 had made room


def test_another_shape_is_another_capture(capturing: Capturing) -> None:
    replays = Replays(capturing)
    for size in (2, 3, 2):
        (doubled,) = replays("twice", lambda x: (2 * x,), torch.arange(size))
        assert doubled.tolist() == [2 * i for i in range(size)]
    assert capturing.captures == 2
    replays("thrice", lambda x: (3 * x,), torch.arange(2))
    assert capturing.captures == 3


def test_without_a_gpu_a_pair_decodes_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pair = load_pair("pocket", cuda_graphs=True)
    assert pair.arena.capture is None
    assert [record.message for record in caplog.records] == [
        "cuda_graphs: the pair is on cpu; its passes run operation by operation"
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_they_are_cuda_graphs(shipped_prompts: list[str]) -> None:
    plain = load_pair("pocket", device="cuda")
    captured = plain.with_graphs()
    for prompt in shipped_prompts[:4]:
        ids = plain.encode_prompt(prompt)
        for policy in (StaticDepth(5), ConfidenceThreshold(0.4)):
            ours, theirs = (SpeculativeDecoder(pair, policy).generate(ids) for pair in (captured, plain))
            assert ours.token_ids == theirs.token_ids
            assert [r.draft_calls for r in ours.rounds] == [r.draft_calls for r in theirs.rounds]
        assert list(autoregressive(captured, ids)) == ours.token_ids
