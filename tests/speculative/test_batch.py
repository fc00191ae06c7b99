"""Texts side by side are the texts alone, whatever their neighbours and their policies do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host_reads import HostReads
from tiny_models import write_tiny_pair
from torch.utils._python_dispatch import TorchDispatchMode

from radar_rl.errors import ConfigError, InputError, ModelOutputError
from radar_rl.policies import CONTINUE, STOP, StaticDepth
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.policies.random import RandomStop
from radar_rl.policies.threshold import ConfidenceThreshold
from radar_rl.runtime import SpeculativeDecoder, autoregressive
from radar_rl.speculative import DraftState, Pair, SpeculativeBatch, SpeculativeSession, load_pair
from radar_rl.speculative.features import FEATURES, Features
from radar_rl.speculative.text import Options

POLICIES = [StaticDepth(3), RandomStop(0.6, 1), ConfidenceThreshold(0.4)]


@pytest.fixture(scope="module")
def prompts(pocket: Pair, shipped_prompts: list[str]) -> list[list[int]]:
    encoded = [pocket.encode_prompt(text) for text in shipped_prompts[:5]]
    assert len({len(ids) for ids in encoded}) > 2  # different lengths
    return encoded


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.name))
@pytest.mark.parametrize("top_k", [1, 10])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_each_text_of_a_batch_is_the_text_alone(
    pocket: Pair, prompts: list[list[int]], policy: StaticDepth, top_k: int, temperature: float
) -> None:
    decoder = SpeculativeDecoder(pocket, policy, max_depth=6, top_k=top_k, tree_size=24)
    options: Options = {"max_new_tokens": 40, "temperature": temperature}
    seeds = list(range(len(prompts)))
    together = decoder.generate_batch(prompts, seeds, **options)
    for out, ids, seed in zip(together, prompts, seeds, strict=True):
        assert out.token_ids == list(autoregressive(pocket, ids, seed=seed, **options))
        assert 1 + sum(len(r.emitted) for r in out.rounds) == len(out.token_ids)


def test_a_difference_could_only_be_a_tie(
    pocket: Pair, shipped_prompts: list[str], record_property: Callable[[str, object], None]
) -> None:
    prompts = [pocket.encode_prompt(text) for text in shipped_prompts]
    together = SpeculativeDecoder(pocket, ConfidenceThreshold(0.3)).generate_batch(prompts, max_new_tokens=64)
    ties = 0
    for out, ids in zip(together, prompts, strict=True):
        alone = list(autoregressive(pocket, ids, max_new_tokens=64))
        if out.token_ids != alone:
            ties += 1
            at = next(i for i, (ours, theirs) in enumerate(zip(out.token_ids, alone, strict=False)) if ours != theirs)
            with torch.inference_mode():
                logits = pocket.target.model(torch.tensor([[*ids, *alone[:at]]])).logits[0, -1]
            assert (logits[out.token_ids[at]] - logits[alone[at]]).abs() < 1e-5
    record_property("ties", ties)
    assert ties < len(prompts) // 4


def test_rounds_and_trees_are_those_of_the_text_alone(pocket: Pair, prompts: list[list[int]]) -> None:
    decoder = SpeculativeDecoder(pocket, ConfidenceThreshold(0.4), max_depth=6)
    together = decoder.generate_batch(prompts, max_new_tokens=40)
    for out, ids in zip(together, prompts, strict=True):
        alone = decoder.generate(ids, max_new_tokens=40)
        assert [r.draft_calls for r in out.rounds] == [r.draft_calls for r in alone.rounds]
        for ours, theirs in zip(out.rounds, alone.rounds, strict=True):
            assert (ours.position, ours.accepted, ours.emitted) == (theirs.position, theirs.accepted, theirs.emitted)
            # Sorted: two nodes within floating-point error of each other may change places.
            np.testing.assert_allclose(np.sort(ours.arrays[3]), np.sort(theirs.arrays[3]), atol=1e-4)
    assert len({r.draft_calls for out in together for r in out.rounds}) > 2  # they did stop one by one


def test_a_widened_first_level_stands_beside_deeper_trees(pocket: Pair, prompts: list[list[int]]) -> None:
    batch = SpeculativeBatch(pocket, prompts[:2], max_new_tokens=20, widen_first_level=True)
    batch.begin()
    batch.draft([1])
    shallow, deep = batch.verify()
    assert (shallow.nodes, shallow.draft_calls, max(shallow.tree.depths)) == (60, 1, 1)
    assert (deep.nodes, deep.draft_calls, max(deep.tree.depths)) == (60, 2, 2)


def test_texts_that_end_leave_and_the_others_go_on(pocket: Pair, prompts: list[list[int]]) -> None:
    batch = SpeculativeBatch(pocket, prompts, max_new_tokens=30)
    sizes = []
    while batch.active:
        sizes.append(len(batch.begin()))
        batch.verify()
    assert all(text.finished for text in batch.texts)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == len(prompts) > sizes[-1]


def test_a_text_that_stopped_cannot_draft_again(pocket: Pair, prompts: list[list[int]]) -> None:
    batch = SpeculativeBatch(pocket, prompts[:2])
    batch.begin()
    batch.draft([1])
    with pytest.raises(RuntimeError, match="continued so far"):
        batch.draft([0])
    with pytest.raises(RuntimeError, match="continued so far"):
        batch.draft([])


def test_batches_that_cannot_be_are_refused(pocket: Pair) -> None:
    with pytest.raises(InputError, match="prompts"):
        SpeculativeBatch(pocket, [])
    with pytest.raises(InputError, match="seeds"):
        SpeculativeBatch(pocket, [[5], [6]], seeds=[1])
    with pytest.raises(InputError, match="outside the vocabulary"):
        SpeculativeBatch(pocket, [[5], [10**6]])


def test_a_prompt_in_chunks_is_the_prompt_at_once(pocket: Pair, prompts: list[list[int]]) -> None:
    decoder = SpeculativeDecoder(pocket, StaticDepth(4))
    whole = decoder.generate(prompts[0], max_new_tokens=30)
    for chunk in (1, 7, len(prompts[0]) - 1):
        batch = SpeculativeBatch(pocket, [prompts[0]], max_new_tokens=30, prefill_chunk=chunk)
        while batch.active:
            batch.begin()
            batch.verify()
        assert batch.texts[0].token_ids == whole.token_ids


class Reads(TorchDispatchMode):
    """Counts reads of single numbers from a device."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_decision_reads_once_and_so_does_a_verification(
    pocket: Pair, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = SpeculativeBatch(pocket, prompts[:3], max_new_tokens=40)
    copies = HostReads(monkeypatch)
    with Reads() as reads:
        for state in batch.begin():
            _ = state.confidences
        assert (copies.count, reads.count) == (1, 0)
        for state in batch.draft([0, 2]):
            _ = state.confidences
        assert (copies.count, reads.count) == (2, 0)
        batch.draft([2])  # nobody looks
        batch.verify()
        assert (copies.count, reads.count) == (3, 0)


def test_features_come_with_the_confidences_and_are_those_of_the_text_alone(
    pocket: Pair, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"features": list(FEATURES), "feature_dim": 4, "feature_seed": 2, "max_new_tokens": 24}
    batch = SpeculativeBatch(pocket, prompts[:3], **asked)
    alone = [SpeculativeSession(pocket, ids, **asked) for ids in prompts[:3]]
    for round_number in range(4):
        states, apart = batch.begin(), [session.begin() for session in alone]
        rows = [0, 1, 2]
        while True:
            for row, together in zip(rows, states, strict=True):
                assert list(together.features) == list(FEATURES)
                for name, values in together.features.items():
                    expected = apart[row].features[name].astype(np.float32)
                    np.testing.assert_allclose(values.astype(np.float32), expected, atol=4e-3, rtol=4e-3)
            rows = rows[1:] if round_number % 2 else rows[:-1]
            if not rows:
                break
            states = batch.draft(rows)
            for row in rows:
                apart[row] = alone[row].draft()
        batch.verify()
        for session in alone:
            session.verify()

    copies = HostReads(monkeypatch)
    with Reads() as reads:
        for state in batch.begin():
            _ = state.features, state.confidences
        for state in batch.draft([1, 2]):
            _ = state.confidences, state.features
        assert (copies.count, reads.count) == (2, 0)


def test_features_that_cannot_be_had_are_named(pocket: Pair, prompts: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'entropy'"):
        SpeculativeBatch(pocket, prompts[:1], features=["entropie"])
    with pytest.raises(ConfigError, match="feature_dim"):
        SpeculativeBatch(pocket, prompts[:1], features=["hidden"])
    with pytest.raises(ConfigError, match="n-grams alone make none"):
        SpeculativeBatch(pocket, prompts[:1], features=["entropy"], draft_source="ngram")
    batch = SpeculativeBatch(pocket, prompts[:1], features=["ngram"], draft_source="ngram")
    assert list(batch.begin()[0].features) == ["ngram"]
    asked = SpeculativeBatch(pocket, prompts[:1], features=["entropy"])
    first = asked.begin()[0]
    second = asked.draft()[0]
    assert (np.flatnonzero(first.features["entropy"]), np.flatnonzero(second.features["entropy"])[-1]) == ([0], 1)
    early = SpeculativeBatch(pocket, prompts[:1], features=["margin"])
    state = early.begin()[0]
    early.verify()
    early.begin()
    with pytest.raises(RuntimeError, match="after its round was over"):
        _ = state.features


@pytest.mark.parametrize(
    ("method", "asked", "message"),
    [
        ("of_root", "target", "the target's features hold NaN"),
        ("of_call", "hidden", "the draft head's hidden is NaN in draft call 1"),
    ],
)
def test_nan_in_features_is_named(
    pocket: Pair, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, method: str, asked: str, message: str
) -> None:
    monkeypatch.setattr(Features, method, lambda *_: {asked: torch.full((1, 2), torch.nan)})
    batch = SpeculativeBatch(pocket, prompts[:1], features=[asked], feature_dim=2)
    state = batch.begin()[0]
    with pytest.raises(ModelOutputError, match=message):
        _ = state.features
    batch.verify()  # whose numbers are sound


def test_the_tree_as_it_stands_is_the_one_that_is_verified(pocket: Pair, prompts: list[list[int]]) -> None:
    batch = SpeculativeBatch(pocket, prompts[:2], max_new_tokens=24, tree_size=20)
    with pytest.raises(RuntimeError, match="needs a round"):
        batch.tree()
    batch.begin()
    assert [len(batch.tree(row).tokens) for row in (0, 1)] == [11, 11]
    batch.draft([1])
    shown = [batch.tree(row) for row in (0, 1)]
    for tree, done in zip(shown, batch.verify(), strict=True):
        assert (tree.tokens, tree.parents, tree.log_probs) == (done.tree.tokens, done.tree.parents, done.tree.log_probs)
        path = tree.path(done.emitted[: done.accepted])
        assert path.sum() == done.accepted + 1
        assert [tree.tokens[i] for i in np.flatnonzero(path)[1:]] == list(done.emitted[: done.accepted])
        with pytest.raises(ValueError, match="no child of node 0"):
            tree.path([-1])


def test_a_policy_with_an_act_of_its_own_is_asked_for_each_text(pocket: Pair, prompts: list[list[int]]) -> None:
    class Own(MemorylessPolicy):
        name = "own"

        def act(self, state: DraftState) -> int:
            return CONTINUE if state.depth < 3 else STOP

    for out in SpeculativeDecoder(pocket, Own()).generate_batch(prompts[:2], max_new_tokens=20):
        assert {r.draft_calls for r in out.rounds} == {3}


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation returned, views left out."""

    elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.elements = max(self.elements, output.untyped_storage().nbytes() // output.element_size())
        return output


def test_a_long_prompt_allocates_no_square_of_its_length(tmp_path: Path) -> None:
    target, draft = write_tiny_pair(tmp_path, max_position_embeddings=9000)
    pair = load_pair(target, draft)
    prompt = np.random.default_rng(0).integers(3, 64, 8192).tolist()
    with Largest() as largest:
        batch = SpeculativeBatch(pair, [prompt], max_new_tokens=4, tree_size=30)
        batch.begin()
        batch.verify()
    assert len(batch.texts[0].token_ids) >= 2
    assert 0 < largest.elements < 8192 * 8192 // 4


def test_asking_what_would_be_accepted_changes_nothing(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = [pocket.encode_prompt(prompt) for prompt in shipped_prompts[:3]]
    asked, plain = (SpeculativeBatch(pocket, ids, max_new_tokens=40, temperature=1.0, seed=3) for _ in range(2))
    rounds = 0
    while plain.active:
        asked.begin(), plain.begin()
        answers = [asked.would_accept()]
        for _ in range(7):
            asked.draft(), plain.draft()
            answers.append(asked.would_accept())
        ended = plain.verify()
        assert [done.accepted for done in ended] == answers[-1]
        assert [done.emitted for done in asked.verify()] == [done.emitted for done in ended]
        rounds += len(ended)
    assert rounds > 20
    with pytest.raises(RuntimeError, match="round in progress"):
        asked.would_accept()
