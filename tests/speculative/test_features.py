"""Features by their definitions, computed again the slow way: one path at a time, without trees or batches."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from capturing import Capturing
from torch import Tensor

from radar_rl.errors import ConfigError
from radar_rl.speculative import NgramIndex, Pair, SpeculativeBatch, SpeculativeSession, load_pair
from radar_rl.speculative.draft_call import LiveSlots
from radar_rl.speculative.features import FEATURES, Features, checked_names, match_length, projection, stored
from radar_rl.speculative.graphs import Arena
from radar_rl.speculative.heads import DraftCache
from radar_rl.speculative.target import TargetCache
from radar_rl.speculative.tree import TreeGrowth, select

PER_CALL = [name for name, feature in FEATURES.items() if feature.per_call]
SETTINGS: dict[str, Any] = {"tree_size": 60, "feature_dim": 8, "feature_seed": 3}


@pytest.fixture(scope="module", params=["pocket", "pocket-eagle2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return load_pair("pocket", request.param)


def text_features(pair: Pair, ids: list[int]) -> Tensor:
    return pair.target.extend(torch.tensor(ids), TargetCache(pair.target.model, len(ids)))[1]


def growing(pair: Pair, ids: list[int], top_k: int = 10, max_depth: int = 8) -> Iterator[TreeGrowth]:
    """The tree of a round whose root is a text's last token, after each draft call."""
    cache = DraftCache(pair.head, len(ids) + (max_depth - 1) * top_k + max_depth)
    features, following = text_features(pair, ids[:-1]), torch.tensor(ids[1:])
    hidden = cache.extend(pair.head, features[None], following[None], [len(ids) - 1])
    position = torch.tensor([len(ids) - 1])
    shape: dict[str, Any] = {"top_k": top_k, "max_depth": max_depth, "keep_newest": True}
    growth = TreeGrowth(pair.head, LiveSlots(cache), position, hidden[:, -1], **shape)
    yield growth
    while growth.depth < max_depth:
        growth.grow()
        yield growth


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> list[TreeGrowth]:
    """All trees that live decoding grows from now on; they keep their newest call."""
    found: list[TreeGrowth] = []

    class Kept(TreeGrowth):
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named | {"keep_newest": True})
            found.append(self)

    monkeypatch.setattr("radar_rl.speculative.batch.TreeGrowth", Kept)
    return found


def slow_output(pair: Pair, ids: list[int], path: list[int]) -> Tensor:
    """The head's output at the last node of a path below the root, one token after the other: [hidden]."""
    head, keys, values = pair.head, [], []  # type: ignore[var-annotated]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys.append(key)
        values.append(value)
        group = query.shape[1] // key.shape[1]
        key, value = (torch.cat(held, dim=2).repeat_interleave(group, dim=1) for held in (keys, values))
        return (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=-1) @ value

    inputs = head.condition(text_features(pair, ids[:-1]))
    output = inputs[:0]
    for slot, token in enumerate([*ids[1:], *path]):
        fed = inputs[slot] if slot < len(inputs) else output
        output = head.layer(fed[None, None], torch.tensor([[token]]), torch.tensor([[slot]]), attend)[0, 0]
    return output


def path_to(growth: TreeGrowth, node: int) -> list[int]:
    """Tokens from the root's child down to a candidate."""
    path: list[int] = []
    while node >= 0:
        path.insert(0, int(growth.tokens[0, node]))
        node = int(growth.parents[0, node])
    return path


def best_of_level(growth: TreeGrowth, level: int) -> list[int]:
    """Candidates of one level, best first."""
    k = growth.top_k
    first, stop = (0, k) if level == 1 else (k + (level - 2) * k * k, k + (level - 1) * k * k)
    scores = growth.scores[0, first:stop].tolist()
    return sorted(range(first, stop), key=lambda node: (-scores[node - first], node))


@torch.inference_mode()
def test_every_feature_is_what_its_definition_says(pair: Pair, shipped_prompts: list[str]) -> None:
    for prompt in shipped_prompts[:3]:
        ids = pair.encode_prompt(prompt)
        features = Features(pair.head, PER_CALL, **SETTINGS)
        for growth in growing(pair, ids):
            level = growth.depth
            found = {name: values[0].float().numpy() for name, values in features.of_call(growth).items()}
            best = [] if level == 1 else path_to(growth, best_of_level(growth, level - 1)[0])
            output = slow_output(pair, ids, best)
            logits = pair.head.logits(output).double().numpy()
            probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            entropy = -sum(p * np.log(p) for p in probabilities if p > 0)
            assert found["entropy"] == pytest.approx(entropy, abs=2e-3, rel=1e-3)
            first, second = np.sort(logits)[::-1][:2]
            assert found["margin"] == pytest.approx(first - second, abs=2e-3, rel=1e-3)
            ten = np.log(np.sort(probabilities)[::-1][:10].sum())
            assert found["top_mass"] == pytest.approx(ten, abs=2e-3, rel=1e-3)

            beam = best_of_level(growth, level)[: growth.top_k]
            scores = growth.scores[0].double().tolist()
            above = [int(growth.parents[0, node]) for node in beam]
            own = [scores[node] - (scores[up] if up >= 0 else 0.0) for node, up in zip(beam, above, strict=True)]
            np.testing.assert_allclose(found["log_probs"], own, atol=2e-3, rtol=1e-3)
            to_draft = {int(token): i for i, token in enumerate(pair.head.draft_to_target)}
            siblings = [i for i, node in enumerate(beam) if path_to(growth, node)[:-1] == best]
            slow = [np.log(probabilities[to_draft[int(growth.tokens[0, beam[i]])]]) for i in siblings]
            np.testing.assert_allclose(found["log_probs"][siblings], slow, atol=2e-3, rtol=1e-3)

            nodes = select(torch.tensor([ids[-1]]), growth.candidates(), 60)
            depths, weights = nodes.depths[0, 1:].numpy(), nodes.log_probs[0, 1:].double().exp().numpy()
            by_depth = [weights[depths == depth].sum() for depth in range(1, 9)]
            np.testing.assert_allclose(found["mass"], by_depth, atol=1e-3, rtol=1e-3)

            matrix = projection("hidden", len(output), 8, 3, torch.device("cpu"))
            projected = (output[:, None] * matrix).sum(dim=0).numpy()
            np.testing.assert_allclose(found["hidden"], projected, atol=2e-3, rtol=2e-3)
        read = text_features(pair, ids[:-1])[-1]
        root = Features(pair.head, ["target"], **SETTINGS).of_root(read[None])["target"][0]
        matrix = projection("target", pair.head.feature_size, 8, 3, torch.device("cpu"))
        np.testing.assert_allclose(root.float(), (read[:, None] * matrix).sum(dim=0), atol=2e-3, rtol=2e-3)


@torch.inference_mode()
def test_a_beam_of_one_has_features_too(pocket: Pair, shipped_prompts: list[str]) -> None:
    ids = pocket.encode_prompt(shipped_prompts[0])
    features = Features(pocket.head, ["log_probs", "margin"], **SETTINGS)
    for growth in growing(pocket, ids, top_k=1, max_depth=3):
        found = features.of_call(growth)
        logits = pocket.head.logits(slow_output(pocket, ids, path_to(growth, growth.depth - 2)))
        first, second = logits.topk(2).values.tolist()
        assert found["margin"].item() == pytest.approx(first - second, abs=2e-3, rel=1e-3)
        assert found["log_probs"].item() == pytest.approx(logits.log_softmax(0).max().item(), abs=2e-3, rel=1e-3)


@torch.inference_mode()
def test_trees_that_stopped_are_left_out(pocket: Pair, shipped_prompts: list[str], grown: list[TreeGrowth]) -> None:
    prompts = [pocket.encode_prompt(prompt) for prompt in shipped_prompts[:3]]
    features = Features(pocket.head, PER_CALL, **SETTINGS)
    batch = SpeculativeBatch(pocket, prompts, max_new_tokens=8)
    batch.begin()
    for rows in (None, [0, 2], [2]):
        batch.draft(rows)
        together = features.of_call(grown[-1])
        for at, row in enumerate(rows or range(3)):
            ids = [*prompts[row], *batch.texts[row].token_ids]
            alone = next(growth for growth in growing(pocket, ids) if growth.depth == grown[-1].depth)
            for name, values in features.of_call(alone).items():
                np.testing.assert_allclose(together[name][at].float(), values[0].float(), atol=2e-3, rtol=2e-3)


@torch.inference_mode()
def test_captured_passes_give_the_same_features(
    pocket: Pair, shipped_prompts: list[str], grown: list[TreeGrowth]
) -> None:
    features = Features(pocket.head, ["target", *PER_CALL], **SETTINGS)
    found: list[list[Tensor]] = []
    for pair in (pocket, replace(pocket, arena=Arena(Capturing()))):
        session = SpeculativeSession(pair, pocket.encode_prompt(shipped_prompts[0]), max_new_tokens=24)
        found.append([])
        while not session.finished:
            read = session.batch._newest(session.batch._features)
            session.begin()
            found[-1] += features.of_root(read).values()
            for _ in range(3):
                session.draft()
                found[-1] += features.of_call(grown[-1]).values()
            session.verify()
    assert len(found[0]) == len(found[1])
    for plain, captured in zip(*found, strict=True):
        np.testing.assert_allclose(captured.float(), plain.float(), atol=4e-3, rtol=4e-3)


def test_nothing_is_kept_that_nobody_asked_for(pocket: Pair, shipped_prompts: list[str]) -> None:
    batch = SpeculativeBatch(pocket, [pocket.encode_prompt(shipped_prompts[0])], max_new_tokens=8)
    batch.begin()
    batch.draft()
    growth = batch._growth
    assert growth is not None
    assert growth.newest is None
    assert not Features(pocket.head, ["ngram", "target"], **SETTINGS).per_call


def test_match_lengths_are_those_of_the_longest_suffix_that_stood_before() -> None:
    rng = np.random.default_rng(0)
    text = rng.integers(0, 4, size=200).tolist() + [9, 9, 9, 9, 9, 9, 9, 9]
    index = NgramIndex(max_occurrences=1)
    for end, token in enumerate(text, start=1):
        index.extend([token])
        before = [text[i : i + n] for n in range(1, 6) for i in range(end - n)]
        slow = max((n for n in range(1, min(5, end) + 1) if text[end - n : end] in before), default=0)
        assert match_length(index) == slow
    assert match_length(NgramIndex()) == 0


def test_what_float16_cannot_hold_is_cut() -> None:
    values = torch.tensor([1e6, -float("inf"), float("inf"), 65519.0, -7e4, 0.1, float("nan")])
    cut = stored(values)
    assert cut.dtype == torch.float16
    assert cut[:5].tolist() == [65504.0, -65504.0, 65504.0, 65504.0, -65504.0]
    assert cut[5] == torch.tensor(0.1).half()
    assert cut[6].isnan()  # a model's fault, which is not papered over
    assert stored(torch.tensor([3e38], dtype=torch.bfloat16)).item() == 65504.0


@torch.inference_mode()
def test_large_hidden_states_and_impossible_tokens_leave_no_infinity(tiny_pair: Any) -> None:
    pair = load_pair(*tiny_pair)
    logits = pair.head.logits

    def sure(hidden: Tensor) -> Tensor:
        scores = 1e4 * logits(hidden)
        return scores.masked_fill(torch.arange(scores.shape[-1]) > 0, -float("inf"))

    object.__setattr__(pair.head, "logits", sure)  # all probability on one token
    features = Features(pair.head, ["target", *PER_CALL], tree_size=8, feature_dim=4, feature_seed=0)
    for growth in growing(pair, [5, 6, 7], top_k=3, max_depth=3):
        assert growth.newest is not None
        growth.newest = replace(growth.newest, output=1e30 * growth.newest.output)
        found = features.of_call(growth)
        assert all(values.isfinite().all() for values in found.values())
        assert found["hidden"].abs().max() == found["margin"] == 65504
        assert found["log_probs"].tolist() == [[0, -65504, -65504]]
        assert found["entropy"] == found["top_mass"] == 0
        assert found["mass"].sum() == growth.depth
    assert features.of_root(torch.full((1, pair.head.feature_size), 1e30))["target"].abs().max() == 65504


def test_a_projection_is_its_seeds_own_and_keeps_lengths() -> None:
    cpu = torch.device("cpu")
    matrix = projection("hidden", 256, 16, 0, cpu)
    assert matrix.shape == (256, 16)
    assert matrix.dtype == torch.float32
    np.testing.assert_allclose(matrix[0, :4], [0.1203534007, -0.1956308782, -0.1959118098, 0.0412436388], rtol=1e-6)
    others = [projection("target", 256, 16, 0, cpu), projection("hidden", 256, 16, 1, cpu)]
    assert all(abs(np.corrcoef(matrix.flatten(), other.flatten())[0, 1]) < 0.05 for other in others)
    vectors = torch.randn(500, 256, generator=torch.Generator().manual_seed(0))
    ratio = (vectors @ matrix).square().sum(1) / vectors.square().sum(1)
    assert ratio.mean().item() == pytest.approx(1, abs=0.1)
    assert ratio.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.25)


def test_names_are_checked_and_put_in_order() -> None:
    assert checked_names([], 0) == ()
    assert checked_names(["target", "entropy", "ngram"], 4) == ("entropy", "ngram", "target")
    wrong: list[tuple[Callable[[], Any], str]] = [
        (partial(checked_names, ["entrpy"], 4), r"unknown 'entrpy'; did you mean 'entropy'\? valid: entropy, margin"),
        (partial(checked_names, ["xyz"], 4), r"unknown 'xyz'; valid: entropy, margin, log_probs, mass, ngram, hidden"),
        (partial(checked_names, ["mass", "mass"], 4), "each once"),
        (partial(checked_names, ["hidden"], 0), r"feature_dim: expected a whole number ≥ 1, got 0"),
        (partial(checked_names, ["target"], 1.5), r"feature_dim: expected a whole number ≥ 1, got 1\.5"),
    ]
    for call, message in wrong:
        with pytest.raises(ConfigError, match=message):
            call()


def test_each_says_what_it_means_and_costs() -> None:
    for name, feature in FEATURES.items():
        assert feature.name == name
        assert len(feature.meaning) > 40
        assert feature.cost.startswith("per ")
    sizes = {"max_depth": 8, "top_k": 10, "feature_dim": 16}
    shapes = {name: feature.shape(**sizes) for name, feature in FEATURES.items()}
    assert shapes == {
        "entropy": (8,),
        "margin": (8,),
        "log_probs": (8, 10),
        "mass": (8, 8),
        "ngram": (),
        "hidden": (8, 16),
        "target": (16,),
        "top_mass": (8,),
        "history": (4,),
    }
