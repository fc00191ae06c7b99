"""Head, n-grams or both draft: the text is the same, the budget is one, and a policy sees who proposed what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from radar_rl.errors import InputError, ModelOutputError
from radar_rl.policies import CONTINUE, STOP, StaticDepth
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.policies.random import RandomStop
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import DraftState, Pair, SpeculativeSession
from radar_rl.speculative.state import NodeCounts
from radar_rl.speculative.text import DRAFT_SOURCES, DraftSource, Options
from radar_rl.speculative.tree import Source

PASSAGE = (
    "The Amazon rainforest covers most of the Amazon basin of South America. This basin covers 7,000,000 square "
    "kilometres, of which 5,500,000 square kilometres are covered by the rainforest."
)


@pytest.fixture(scope="module")
def prompts(pocket: Pair) -> list[list[int]]:
    told = f"{PASSAGE}\n\nRepeat the passage above."
    return [pocket.encode_prompt(text) for text in (told, "What is two plus two?", "Write a function that adds.")]


@pytest.mark.parametrize("source", DRAFT_SOURCES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_text_does_not_depend_on_who_drafts(
    pocket: Pair, prompts: list[list[int]], source: DraftSource, temperature: float
) -> None:
    options: Options = {"max_new_tokens": 60, "temperature": temperature}
    seeds = list(range(len(prompts)))
    alone = [list(autoregressive(pocket, ids, seed=seed, **options)) for ids, seed in zip(prompts, seeds, strict=True)]
    for policy in (StaticDepth(3), RandomStop(0.6, 1)):
        for top_k in (1, 10):
            decoder = SpeculativeDecoder(pocket, policy, max_depth=5, top_k=top_k, tree_size=24, draft_source=source)
            together = decoder.generate_batch(prompts, seeds, **options)
            assert [out.token_ids for out in together] == alone
            assert all(r.nodes <= 24 for out in together for r in out.rounds)
    assert decoder.generate(prompts[0], seed=0, **options).token_ids == alone[0]


def test_n_grams_alone_never_ask_the_head(
    pocket: Pair, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(autoregressive(pocket, prompts[0], max_new_tokens=60))

    def refuse(*_: object) -> None:
        raise AssertionError("a draft call was made")

    monkeypatch.setattr(pocket.head, "layer", refuse)
    monkeypatch.setattr(pocket.head, "logits", refuse)
    out = SpeculativeDecoder(pocket, StaticDepth(8), draft_source="ngram").generate(prompts[0], max_new_tokens=60)
    assert out.token_ids == expected
    assert {r.draft_calls for r in out.rounds} == {0}
    assert out.acceptance_length > 1.5  # the passage stands in the prompt
    assert {source for r in out.rounds for source in r.tree.sources} == {0, Source.NGRAM}
    session = SpeculativeSession(pocket, prompts[0], draft_source="ngram")
    assert (session.begin().depth, session.max_depth) == (0, 0)
    with pytest.raises(RuntimeError, match="max_depth = 0"):
        session.draft()


def test_where_a_text_repeats_itself_the_hybrid_accepts_most(pocket: Pair, prompts: list[list[int]]) -> None:
    def mean(source: DraftSource) -> float:
        decoder = SpeculativeDecoder(pocket, StaticDepth(8), draft_source=source)
        return decoder.generate(prompts[0], max_new_tokens=96).acceptance_length

    head, ngram, hybrid = (mean(source) for source in DRAFT_SOURCES)
    assert hybrid > max(head, ngram)


class Watching(MemorylessPolicy):
    """Stops at random and writes down the node counts that it was shown last."""

    name = "watching"

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.seen: list[NodeCounts] = []
        self.shown: NodeCounts | None = None

    def act(self, state: DraftState) -> int:
        assert state.sources == state.sources
        self.shown = state.sources
        return CONTINUE if self.random.random() < 0.6 else STOP

    def end_round(self, draft_calls: int, accepted: int) -> None:
        assert self.shown is not None
        self.seen.append(self.shown)


@pytest.mark.parametrize("source", ["head", "hybrid"])
def test_a_policy_sees_how_many_nodes_came_from_which_source(
    pocket: Pair, prompts: list[list[int]], source: DraftSource
) -> None:
    policy = Watching()
    decoder = SpeculativeDecoder(pocket, policy, draft_source=source)
    rounds = decoder.generate(prompts[0], max_new_tokens=60).rounds
    stopped = 0
    for shown, ended in zip(policy.seen, rounds, strict=True):
        verified = Counter(ended.tree.sources)
        assert verified[0] == 1
        if ended.draft_calls < 8:  # else one more call was made after it last looked
            assert shown == tuple(verified[kind] for kind in Source)
            stopped += 1
    assert stopped > len(rounds) // 2
    assert (sum(shown.ngram + shown.both for shown in policy.seen) > 0) == (source == "hybrid")


def test_looking_at_sources_and_confidences_is_one_read(
    pocket: Pair, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    to_host = torch.Tensor.cpu

    def counting(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal reads
        reads += 1
        return to_host(tensor)

    session = SpeculativeSession(pocket, prompts[0], draft_source="hybrid")
    monkeypatch.setattr(torch.Tensor, "cpu", counting)
    state = session.begin()
    assert reads == 0
    for calls in range(1, 4):
        assert state.sources is not None
        assert np.isfinite(state.confidences[: state.depth]).all()
        assert reads == calls
        state = session.draft()
    session.verify()
    assert reads == 4


def test_nan_of_the_head_is_found_when_sources_are_read(
    pocket: Pair, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SpeculativeSession(pocket, prompts[0], draft_source="hybrid")
    monkeypatch.setattr(pocket.head, "logits", lambda hidden: torch.full((*hidden.shape[:-1], 4096), torch.nan))
    state = session.begin()
    with pytest.raises(ModelOutputError, match="draft head's lm_head returned NaN in draft call 1"):
        _ = state.sources
    with pytest.raises(ModelOutputError, match="draft head's lm_head"):
        session.verify()


@pytest.mark.parametrize("source", DRAFT_SOURCES)
def test_texts_end_at_the_contexts_end(pocket: Pair, prompts: list[list[int]], source: DraftSource) -> None:
    endless = replace(pocket, eos_token_ids=frozenset())
    repeated: Sequence[int] = (prompts[0] * 40)[: pocket.max_positions - 30]
    decoder = SpeculativeDecoder(endless, StaticDepth(8), draft_source=source)
    expected = list(autoregressive(endless, repeated, max_new_tokens=30))
    assert len(expected) == 30
    assert decoder.generate(repeated, max_new_tokens=30).token_ids == expected


def test_an_unknown_source_is_refused(pocket: Pair) -> None:
    with pytest.raises(InputError, match="draft_source: expected one of head, ngram, hybrid, got 'trie'"):
        SpeculativeSession(pocket, [5], draft_source="trie")  # type: ignore[arg-type]
