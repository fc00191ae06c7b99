"""Where a policy cannot decide, rounds go to a static depth, said once and counted, and the text stays the target's."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recurrent_weights import make_weights
from torch import Tensor

from radar_rl.errors import ArtifactError, ConfigError, FallbackWarning, InputError, ModelOutputError
from radar_rl.policies import (
    CONTINUE,
    ConfidenceThreshold,
    LearnedPolicy,
    MinProbability,
    ObservationSpec,
    Policy,
    RadarPolicy,
    States,
    StaticDepth,
    TapOut,
)
from radar_rl.runtime import SpeculativeDecoder, autoregressive, load_artifact, load_policy, save_policy
from radar_rl.speculative import Pair
from radar_rl.speculative.heads import DraftHead
from radar_rl.speculative.session import SpeculativeSession
from radar_rl.speculative.state import DraftState

SHAPE = {"max_depth": 4, "top_k": 4, "tree_size": 16}
TOKENS = 16


def learned(spec: ObservationSpec, seed: int = 0) -> LearnedPolicy:
    weight = np.random.default_rng(seed).normal(size=(2, spec.size)).astype(np.float32) / 9
    return LearnedPolicy("net", spec, [(weight, np.zeros(2, np.float32))])


SEES = learned(ObservationSpec(max_depth=4, top_k=4))


@pytest.fixture(scope="module")
def prompts(pocket: Pair, shipped_prompts: list[str]) -> list[list[int]]:
    return [pocket.encode_prompt(prompt) for prompt in shipped_prompts[:3]]


@pytest.fixture(scope="module")
def alone(pocket: Pair, prompts: list[list[int]]) -> Callable[[int, float], list[int]]:
    """The target's own text of a prompt, at a temperature."""
    texts: dict[tuple[int, float], list[int]] = {}

    def of(prompt: int, temperature: float = 0.0) -> list[int]:
        key = (prompt, temperature)
        if key not in texts:
            options = {"max_new_tokens": TOKENS, "seed": 3, "temperature": temperature}
            texts[key] = list(autoregressive(pocket, prompts[prompt], **options))  # type: ignore[arg-type]
        return texts[key]

    return of


class Blind(LearnedPolicy):
    """Sees NaN after some of its calls."""

    after = (2,)

    def act(self, state: DraftState) -> int:
        if state.depth in self.after:
            confidences = state.confidences.copy()
            confidences[0, 0] = np.nan
            state = DraftState(state.position, state.depth, state.max_depth, confidences)
        return super().act(state)


def depths(rounds: list) -> set[int]:  # type: ignore[type-arg]
    return {done.draft_calls for done in rounds}


def test_a_nan_seen_falls_back_for_the_round(pocket: Pair, prompts: list[list[int]], alone: Callable) -> None:  # type: ignore[type-arg]
    always_going = (np.zeros((2, SEES.spec.size), np.float32), np.array([0.0, 1.0], np.float32))
    policy = Blind("blind", SEES.spec, [always_going])
    decoder = SpeculativeDecoder(pocket, policy, **SHAPE, fallback_depth=3)
    with pytest.warns(FallbackWarning, match=r"policy blind could not decide.*depth 3.*NaN"):
        out = decoder.generate(prompts[0], max_new_tokens=TOKENS, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        again = decoder.generate(prompts[0], max_new_tokens=TOKENS, seed=3)
    assert out.token_ids == again.token_ids == alone(0)
    assert depths(out.rounds) == {3}  # two calls by the policy, the third by the fallback
    assert out.fallbacks == len(out.rounds)
    assert decoder.fallbacks == 2 * out.fallbacks
    with pytest.raises(InputError, match="NaN"):
        SpeculativeDecoder(pocket, policy, **SHAPE, strict=True).generate(prompts[0])


def overflowing() -> Iterator[Policy]:
    """Policies whose networks compute ∞ − ∞ of sound numbers."""
    large, against = np.float32(-3e38), np.array([[0.0, 0.0], [1.0, -1.0]], np.float32)
    first = np.full((2, SEES.spec.size), large), np.zeros(2, np.float32)
    yield LearnedPolicy("large", SEES.spec, [first, (against, np.zeros(2, np.float32))])
    newest = ObservationSpec(max_depth=4, top_k=4, newest=1)  # small enough to be written out
    yield LearnedPolicy("large, small", newest, [(first[0][:, : newest.size], first[1]), (against, first[1])])
    weights = make_weights(top_k=4, hidden=2, inner=2)
    weights["mlp.0.weight"][:, -4:], weights["mlp.3.weight"][:] = large, against
    yield RadarPolicy("large radar", weights)


@pytest.mark.filterwarnings("ignore:.* encountered in dot:RuntimeWarning")
@pytest.mark.parametrize("policy", list(overflowing()), ids=lambda policy: policy.name)
def test_a_network_that_overflows_falls_back(
    pocket: Pair, prompts: list[list[int]], alone: Callable, policy: Policy  # type: ignore[type-arg]
) -> None:
    decoder = SpeculativeDecoder(pocket, policy, **SHAPE, fallback_depth=3)
    with pytest.warns(FallbackWarning, match=f"policy {policy.name} could not decide.*weights are so large"):
        out = decoder.generate(prompts[0], max_new_tokens=TOKENS, seed=3)
    assert out.token_ids == alone(0)
    assert depths(out.rounds) == {3}
    assert out.fallbacks == len(out.rounds)
    with pytest.raises(ArtifactError, match="its network's output is NaN"):
        SpeculativeDecoder(pocket, policy, **SHAPE, strict=True).generate(prompts[0])
    state = States(np.full((1, 4, 4), -1.0), np.array([1]))
    with pytest.raises(ArtifactError, match="its network's output is NaN"):
        policy.continues(state)  # type: ignore[attr-defined]


def test_beside_a_blind_text_others_decide_for_themselves(pocket: Pair, prompts: list[list[int]]) -> None:
    class Sometimes(Blind):
        after = (1,)

        def act(self, state: DraftState) -> int:
            return super().act(state) if state.position % 2 else CONTINUE

    policy = Sometimes("odd", SEES.spec, [(weight.T, bias) for weight, bias in SEES.layers])
    decoder = SpeculativeDecoder(pocket, policy, **SHAPE, fallback_depth=2)
    with pytest.warns(FallbackWarning):
        outs = decoder.generate_batch(prompts, max_new_tokens=TOKENS)
    assert sum(out.fallbacks for out in outs) == decoder.fallbacks > 0
    for out in outs:
        assert all(done.draft_calls == 4 for done in out.rounds if not done.position % 2)  # nobody else's NaN


@pytest.fixture
def damage(pocket: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Lets the head return NaN in a share of its forwards, somewhere."""
    whole = type(pocket.head).logits

    def broken(share: float) -> None:
        generator = np.random.default_rng(1)

        def logits(self: DraftHead, hidden: Tensor) -> Tensor:
            scores = whole(self, hidden)
            if generator.random() < share:
                flat = scores.clone().flatten(0, -2)
                flat[int(generator.integers(len(flat))) if generator.random() < 0.5 else slice(None)] = torch.nan
                return flat.view(scores.shape)
            return scores

        monkeypatch.setattr(type(pocket.head), "logits", logits)

    yield broken
    monkeypatch.undo()


@pytest.mark.parametrize("source", ["head", "hybrid"])
@pytest.mark.parametrize("policy", [SEES, StaticDepth(4)], ids=lambda policy: policy.name)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_damaged_head_costs_speed_and_never_a_token(
    pocket: Pair,
    prompts: list[list[int]],
    alone: Callable,  # type: ignore[type-arg]
    damage: Callable[[float], None],
    policy: Policy,
    source: str,
    share: float,
) -> None:
    expected = {(i, t): alone(i, t) for i in (0, 1) for t in (0.0, 1.0)}
    damage(share)
    decoder = SpeculativeDecoder(pocket, policy, **SHAPE, draft_source=source, fallback_depth=2)  # type: ignore[arg-type]
    with pytest.warns(FallbackWarning, match="draft head"):
        decoder.generate(prompts[0], max_new_tokens=TOKENS)
    for temperature in (0.0, 1.0):
        options = {"max_new_tokens": TOKENS, "seed": 3, "temperature": temperature}
        out = decoder.generate(prompts[0], **options)  # type: ignore[arg-type]
        assert out.token_ids == expected[0, temperature]
        assert any(done.damaged for done in out.rounds)
        assert out.fallbacks >= sum(done.damaged for done in out.rounds)
        both = decoder.generate_batch(prompts[:2], **options)  # type: ignore[arg-type]
        assert [each.token_ids for each in both] == [expected[0, temperature], expected[1, temperature]]
    if share == 1.0 and source == "head":
        assert decoder.fallbacks >= len(out.rounds)
        assert out.acceptance_length == pytest.approx((TOKENS - 1) / len(out.rounds))
        assert all(done.accepted == 0 and done.nodes == 1 for done in out.rounds)
        with pytest.raises(ModelOutputError, match="draft head"):
            SpeculativeDecoder(pocket, policy, **SHAPE, strict=True).generate(prompts[0])


def test_a_damaged_target_is_always_an_error(
    pocket: Pair, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = SpeculativeDecoder(pocket, StaticDepth(2), **SHAPE)
    session = decoder.start(prompts[0])
    monkeypatch.setattr(pocket.target, "output_layer", lambda hidden: torch.full((*hidden.shape[:-1], 4096), torch.nan))
    with pytest.raises(ModelOutputError, match="target's lm_head"):
        list(decoder.rounds(session))


def test_a_feature_that_is_not_at_hand_falls_back(pocket: Pair, prompts: list[list[int]], alone: Callable) -> None:  # type: ignore[type-arg]
    decoder = SpeculativeDecoder(pocket, MinProbability(0.3), **SHAPE, fallback_depth=3)
    session = SpeculativeSession(pocket, prompts[0], **SHAPE, max_new_tokens=TOKENS)  # decoded without log_probs
    with pytest.warns(FallbackWarning, match="looks at 'log_probs'"):
        rounds = list(decoder.rounds(session))
    assert session.token_ids == alone(0)
    assert depths(rounds) == {3}
    assert decoder.fallbacks == len(rounds)


@pytest.mark.parametrize(
    ("policy", "made_for", "message"),
    [
        (learned(ObservationSpec(max_depth=3, top_k=4)), {}, "observes max_depth 3, this decoder drafts with 4"),
        (learned(ObservationSpec(max_depth=4, top_k=5)), {}, "observes top_k 5, this decoder drafts with 4"),
        (learned(ObservationSpec(4, 4, ("mass",))), {"tree_size": 60}, "mass of trees of 60 nodes, this decoder's"),
        (SEES, {"target": "other@1"}, "made with target other@1, this pair's is"),
        (ConfidenceThreshold(0.5), {"draft": "other@1"}, "made with draft other@1, this pair's is"),
    ],
)
def test_a_policy_made_for_something_else_is_not_asked(
    policy: Policy,
    made_for: dict[str, object],
    message: str,
    pocket: Pair,
    prompts: list[list[int]],
    alone: Callable,  # type: ignore[type-arg]
) -> None:
    with pytest.warns(FallbackWarning, match=message):
        decoder = SpeculativeDecoder(pocket, policy, **SHAPE, made_for=made_for, fallback_depth=2)
    out = decoder.generate(prompts[0], max_new_tokens=TOKENS)
    assert out.token_ids == alone(0)
    assert depths(out.rounds) == {2}
    assert out.fallbacks == decoder.fallbacks == len(out.rounds)
    assert decoder.generate_batch(prompts[:2], max_new_tokens=4)[1].fallbacks > 0
    with pytest.raises(ArtifactError, match=message):
        SpeculativeDecoder(pocket, policy, **SHAPE, made_for=made_for, strict=True)
    decoder.policy = SEES  # one that fits takes over
    counted = decoder.fallbacks
    assert decoder.generate(prompts[0], max_new_tokens=TOKENS).fallbacks == 0
    assert decoder.fallbacks == counted


def test_an_artifact_says_how_to_decode(pocket: Pair, prompts: list[list[int]], tmp_path: Path) -> None:
    pair = {"target": pocket.target_identity, "draft": pocket.draft_identity}
    save_policy(tmp_path / "own", SEES, pair | SHAPE | {"best_static_depth": 3})
    save_policy(tmp_path / "other", SEES, pair | SHAPE | {"target": "other@1", "best_static_depth": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = SpeculativeDecoder.from_artifact(pocket, tmp_path / "own")
        assert own.generate(prompts[0], max_new_tokens=TOKENS).fallbacks == 0
        assert (own.max_depth, own.top_k, own.tree_size) == (4, 4, 16)
        let = SpeculativeDecoder.from_artifact(pocket, tmp_path / "other", allow_other_pair=True)
        assert let.generate(prompts[0], max_new_tokens=TOKENS).fallbacks == 0
        assert SpeculativeDecoder.from_artifact(pocket, tmp_path / "own", tree_size=9).tree_size == 9
    with pytest.raises(ArtifactError, match="other@1"):
        SpeculativeDecoder.from_artifact(pocket, tmp_path / "other", strict=True)
    with pytest.warns(FallbackWarning, match="depth 3 instead: made with target other@1"):
        other = SpeculativeDecoder.from_artifact(pocket, load_artifact(tmp_path / "other"))
    out = other.generate(prompts[0], max_new_tokens=TOKENS)
    assert depths(out.rounds) == {3}
    assert out.fallbacks == len(out.rounds)
    with pytest.raises(InputError, match="fallback_depth: expected a whole number ≥ 1"):
        SpeculativeDecoder(pocket, SEES, **SHAPE, fallback_depth=0)


def test_what_learns_from_text_to_text_takes_one_at_a_time(pocket: Pair, prompts: list[list[int]]) -> None:
    policy = TapOut((StaticDepth(1), StaticDepth(3)), max_depth=4)
    decoder = SpeculativeDecoder(pocket, policy, **SHAPE)
    with pytest.raises(ConfigError, match=r"learns from text to text.*generate"):
        decoder.generate_batch(prompts[:2], max_new_tokens=TOKENS)
    decoder.generate_batch(prompts[:1], max_new_tokens=TOKENS)
    learned_on = policy._pulls.count.sum()
    assert learned_on > 0  # the policy itself, not a copy of it
    decoder.generate(prompts[1], max_new_tokens=TOKENS)
    assert policy._pulls.count.sum() > learned_on


def test_a_loaded_policy_knows_its_pair_and_its_best_static_depth(
    pocket: Pair, prompts: list[list[int]], alone: Callable, tmp_path: Path
) -> None:  # type: ignore[type-arg]
    about = {"target": pocket.target_identity, "draft": "another@0000", "best_static_depth": 2}
    save_policy(tmp_path, ConfidenceThreshold(0.0), about)
    with pytest.warns(FallbackWarning, match="another@0000"):
        decoder = SpeculativeDecoder(pocket, load_policy(tmp_path), **SHAPE)
    out = decoder.generate(prompts[0], max_new_tokens=TOKENS, seed=3)
    assert (depths(out.rounds), out.fallbacks, out.token_ids) == ({2}, len(out.rounds), alone(0))
    decoder.policy = load_policy(tmp_path)  # set anew, it fits no better
    assert decoder.generate(prompts[0], max_new_tokens=TOKENS, seed=3).fallbacks == len(out.rounds)
    with pytest.raises(ArtifactError, match="another@0000"):
        SpeculativeDecoder(pocket, load_policy(tmp_path), **SHAPE, strict=True)
    allowed = SpeculativeDecoder(pocket, load_policy(tmp_path), **SHAPE, allow_other_pair=True)
    assert allowed.generate(prompts[0], max_new_tokens=TOKENS, seed=3).fallbacks == 0


class Taught(Blind):
    """Notes the rounds that it is told of."""

    def begin_sequence(self, text: str | None = None) -> None:
        self.rounds = 0

    def end_round(self, draft_calls: int, accepted: int) -> None:
        self.rounds += 1


def test_a_policy_learns_from_no_round_that_it_did_not_decide(pocket: Pair, prompts: list[list[int]]) -> None:
    always_going = (np.zeros((2, SEES.spec.size), np.float32), np.array([0.0, 1.0], np.float32))
    policy = Taught("blind", SEES.spec, [always_going])
    with pytest.warns(FallbackWarning):
        out = SpeculativeDecoder(pocket, policy, **SHAPE).generate(prompts[0], max_new_tokens=TOKENS)
    assert (policy.rounds, out.fallbacks) == (0, len(out.rounds))


@pytest.mark.parametrize("policy", [None, "static:3", StaticDepth, 5])
def test_what_is_no_policy_is_refused(pocket: Pair, policy: Any) -> None:
    with pytest.raises(ConfigError, match="policy: expected one"):
        SpeculativeDecoder(pocket, policy)


def test_an_option_of_no_text_is_refused_by_name(pocket: Pair, prompts: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="max_depth: unknown here; a text takes max_new_tokens"):
        SpeculativeDecoder(pocket, StaticDepth(2)).generate(prompts[0], max_depth=3)  # type: ignore[call-arg]
