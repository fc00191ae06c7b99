"""What is decided from the beams as they were drafted is what the whole, rounded observation decides."""

import copy
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stepwise_network import network

from radar_rl.errors import ArtifactError, ModelOutputError
from radar_rl.policies import (
    CONTINUE,
    STOP,
    ConfidenceThreshold,
    JointConfidence,
    LearnedPolicy,
    MemorylessPolicy,
    ObservationSpec,
    States,
    StaticDepth,
)
from radar_rl.policies.at_once import written_out
from radar_rl.policies.stepwise import Stepwise
from radar_rl.runtime import SpeculativeDecoder
from radar_rl.speculative import Pair, SpeculativeBatch
from radar_rl.speculative.state import Beams, DraftState

DEPTH, K = 4, 3
Rows = NDArray[np.float32]


def laid_out(beams: Rows) -> Beams:
    """[DEPTH, K], and what is sorted with the last call."""
    flat = np.concatenate((beams.ravel(), np.full(K * K - K, np.nan, np.float32)))
    return Beams(memoryview(flat), (DEPTH, K))


def made_up_beams(rows: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    scale = generator.choice([1e-6, 0.03, 1.0, 9.0], (rows, 1, 1))
    return -np.sort(generator.exponential(scale, (rows, DEPTH, K)), axis=2).astype(np.float32)


def whole(policy: MemorylessPolicy, beams: Rows, depth: int) -> int:
    """What the whole observation decides, rounded as a trace has it."""
    rounded = beams.astype(np.float16)
    return CONTINUE if policy.continues(States(rounded[None], np.array([depth])))[0] else STOP


@pytest.mark.parametrize("hidden", [(), (16,), (8, 8)])
@pytest.mark.parametrize(
    "spec",
    [
        ObservationSpec(DEPTH, K, newest=1),
        ObservationSpec(DEPTH, K, ("depth", "confidences"), newest=2),
        ObservationSpec(DEPTH, K, ("confidences",), newest=3, floor=-7.3),
    ],
    ids=lambda value: str(value.newest) if isinstance(value, ObservationSpec) else str(value),
)
def test_a_network_decides_as_over_the_whole_observation_or_not_at_all(
    spec: ObservationSpec, hidden: tuple[int, ...]
) -> None:
    undecided = wanted = stops = cut = 0
    for seed in range(20):
        policy = network(spec, hidden, seed)
        decisions = written_out(spec, policy.layers)
        for beams in made_up_beams(40, seed):
            for depth in range(1, DEPTH + 1):
                act, of_all = decisions[depth](laid_out(beams), depth), whole(policy, beams, depth)
                assert act in (None, of_all)
                undecided, wanted, stops = undecided + (act is None), wanted + 1, stops + (act == STOP)
                cut += bool((beams[max(0, depth - (spec.newest or 0)) : depth] < spec.floor).any())
    assert 0 < stops < wanted - undecided
    assert undecided < 0.05 * wanted
    assert cut > 0.05 * wanted  # raised to the floor


@pytest.mark.parametrize("floor", [-10.0, -10.003])
def test_numbers_about_the_floor_are_as_observed(floor: float) -> None:
    """Float16 has −10, but not −10.003: rounding takes what lies below to −10."""
    spec = ObservationSpec(DEPTH, K, ("confidences",), newest=1, floor=floor)
    about = np.array([floor, np.nextafter(floor, 0), np.nextafter(floor, -20), floor - 4e-3, floor + 4e-3, -np.inf])
    generator = np.random.default_rng(0)
    undecided = 0
    for seed in range(600):
        policy, beams = network(spec, (8,), seed), made_up_beams(1, seed)[0]
        beams[0] = -np.sort(-generator.choice(about, K).astype(np.float32))
        layers = [(weight.T.copy(), bias.copy()) for weight, bias in policy.layers]
        observed = np.maximum(beams[:1], np.float32(floor))
        exact = np.maximum(observed @ layers[0][0].T + layers[0][1], 0.0) @ layers[1][0].T
        layers[1][1][:] = -exact[0] + (0.0, generator.uniform(-0.03, 0.03))  # as far from nothing as rounding takes it
        policy = LearnedPolicy("n", spec, layers)
        act = written_out(spec, policy.layers)[1](laid_out(beams), 1)
        assert act in (None, whole(policy, beams, 1))
        undecided += act is None
    assert 60 < undecided < 540


def test_where_rounding_decides_the_whole_observation_does() -> None:
    """Networks whose output is nearly zero: its sign over rounded numbers is often another."""
    spec, apart = ObservationSpec(DEPTH, K, ("confidences",), newest=1), 0
    for seed, beams in enumerate(made_up_beams(600)):
        policy = network(spec, (16,), seed)
        layers = [(weight.T.copy(), bias.copy()) for weight, bias in policy.layers]
        observed = np.maximum(beams[:1].astype(np.float64), spec.floor)
        exact = np.maximum(observed @ policy.layers[0][0] + policy.layers[0][1], 0.0) @ policy.layers[1][0]
        layers[1][1][:] = -exact[0] + (0.0, (seed % 7 - 3) * 2e-4)  # next to nothing, before rounding
        policy = LearnedPolicy("n", spec, layers)
        act = written_out(spec, policy.layers)[1](laid_out(beams), 1)
        assert act in (None, whole(policy, beams, 1))
        near = policy.layers[1][1] + exact[0]
        apart += whole(policy, beams, 1) != (near[1] > near[0])
    assert apart > 60  # so the bound is needed


def test_what_no_beam_holds_is_left_to_those_who_name_it() -> None:
    spec = ObservationSpec(DEPTH, K, newest=1)
    decide, good = written_out(spec, network(spec, (16,)).layers)[1], made_up_beams(1)[0]
    assert decide(laid_out(good), 1) is not None
    for wrong in ([np.nan, -1, -2], [-1, -2, np.nan], [0.1, -1, -2]):
        beams = good.copy()
        beams[0] = wrong
        assert decide(laid_out(beams), 1) is None
    over = laid_out(good)
    over.numbers = None
    assert decide(over, 1) is None
    wider = Beams(memoryview(np.zeros(64, np.float32)), (DEPTH, K + 1))
    assert decide(wider, 1) is None


@pytest.mark.parametrize("factor", [1e-28, 1.0, 1e19, 1e25, 1e37])
@pytest.mark.parametrize("floor", [-20.0, -1e6, -1e38, -3e38])
def test_where_float32_has_no_more_numbers_the_whole_observation_decides(factor: float, floor: float) -> None:
    spec = ObservationSpec(DEPTH, K, newest=2, floor=floor)
    for seed in range(40):
        layers = [(weight.T * np.float32(factor), 0 * bias) for weight, bias in network(spec, (8,), seed).layers]
        policy = LearnedPolicy("n", spec, layers)
        beams = made_up_beams(1, seed)[0]
        beams[1, K - 1] = -7e4  # less than float16 has
        for depth in (1, 2):
            decisions = written_out(spec, policy.layers)
            try:
                of_all = whole(policy, beams, depth)
            except ArtifactError:  # the output is NaN
                of_all = None
            assert not decisions or decisions[depth](laid_out(beams), depth) in (None, of_all)


def test_what_float16_makes_infinite_is_left_to_the_whole_observation() -> None:
    spec = ObservationSpec(1, 1, ("confidences",), newest=1, floor=-1e6)
    policy = LearnedPolicy("n", spec, [(np.array([[0], [1]], np.float32), np.array([0, 5e5], np.float32))])
    beams = np.array([[-7e4]], np.float32)  # observed as the floor
    [_, decide] = written_out(spec, policy.layers)
    with np.errstate(over="ignore"):
        assert whole(policy, beams, 1) == STOP
    assert decide(Beams(memoryview(beams[0]), (1, 1)), 1) is None
    assert decide(Beams(memoryview(np.float32([-6e4])), (1, 1)), 1) == CONTINUE


def test_outputs_that_are_nearly_alike_decide_by_their_difference() -> None:
    """As action values are: what both share must not drown what tells them apart."""
    spec, generator = ObservationSpec(DEPTH, K, newest=1), np.random.default_rng(0)
    for seed in range(100):
        layers = [(weight.T.copy(), bias) for weight, bias in network(spec, (16,), seed).layers]
        shared, apart = 20 * generator.normal(size=16), 1e-4 * layers[1][0][1]
        layers[1] = (np.stack((shared, shared + apart)).astype(np.float32), np.zeros(2, np.float32))
        policy = LearnedPolicy("n", spec, layers)
        for beams in made_up_beams(20, seed):
            act = written_out(spec, policy.layers)[1](laid_out(beams), 1)
            assert act in (None, whole(policy, beams, 1))


def test_what_is_copied_decides_alike(pocket: Pair, shipped_prompts: list[str]) -> None:
    policy = network(ObservationSpec(4, 3, newest=1), (16,))
    batch = SpeculativeBatch(pocket, [pocket.encode_prompt(shipped_prompts[0])], max_depth=4, top_k=3)
    [state] = batch.begin()
    assert policy.act(state) == policy.act(copy.copy(state)) == copy.deepcopy(policy).act(state)
    assert state.beams is not None
    assert copy.deepcopy(state.beams).numbers is None  # whose memory is another's


def test_wide_networks_are_written_out() -> None:
    beams = Beams(memoryview(-np.arange(256 * 256, dtype=np.float32) / 256**2), (1, 256))
    wide = ObservationSpec(1, 256, ("confidences",), newest=1)
    assert written_out(wide, network(wide, ()).layers)[1](beams, 1) is not None


@pytest.mark.parametrize(
    ("spec", "hidden"),
    [
        (ObservationSpec(DEPTH, K), (16,)),  # of all calls, each in its own place
        (ObservationSpec(DEPTH, K, newest=1), (64, 64)),
        (ObservationSpec(1, 3000, newest=1), (0,)),
        (ObservationSpec(256, 1, newest=256), ()),
        (ObservationSpec(DEPTH, K, ("depth",), newest=1), (4,)),
        (ObservationSpec(DEPTH, K, ("confidences", "entropy"), newest=1), (4,)),
    ],
)
def test_other_networks_are_not_written_out(spec: ObservationSpec, hidden: tuple[int, ...]) -> None:
    assert not written_out(spec, network(spec, hidden).layers)


@pytest.mark.parametrize("rule", [ConfidenceThreshold, JointConfidence])
def test_thresholds_decide_as_over_rounded_confidences(rule: Callable[..., MemorylessPolicy]) -> None:
    for row, beams in enumerate(made_up_beams(3000)):
        depth = 1 + row % DEPTH
        total = float(np.exp(beams[depth - 1, 0 if rule is ConfidenceThreshold else slice(None)]).sum())
        for threshold in (
            0.3,
            min(1.0, total * (1 + (row % 5 - 2) * 1e-4)),
            0.0,
            1e-46,
        ):  # near ``total``, rounding decides
            policy = rule(threshold)
            state = DraftState(0, depth, DEPTH, beams.astype(np.float16), beams=laid_out(beams))
            assert policy.act(state) == whole(policy, beams, depth)
    unlikely = made_up_beams(1)[0] - 200  # a threshold that float32 does not have is none
    state = DraftState(0, 1, DEPTH, unlikely.astype(np.float16), beams=laid_out(unlikely))
    assert rule(1e-46).act(state) == whole(rule(1e-46), unlikely, 1) == CONTINUE
    policy = rule(0.3)
    state = DraftState(0, 1, DEPTH, np.full((DEPTH, K), np.nan, np.float16), beams=laid_out(beams * np.nan))
    assert policy.act(state) == STOP  # as over the whole observation


@pytest.mark.parametrize("widen", [False, True])
@pytest.mark.parametrize("asks_from", [1, 3])
def test_live_decisions_are_those_of_the_whole_observation(
    pocket: Pair, shipped_prompts: list[str], asks_from: int, widen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ObservationSpec(5, 6, newest=1)
    policy = network(spec, (16,), seed=1).asking_from(asks_from)
    asked: Any = {"max_depth": 5, "top_k": 6, "max_new_tokens": 48, "widen_first_level": widen}
    batch = SpeculativeBatch(pocket, [pocket.encode_prompt(shipped_prompts[0])], **asked)
    looked = []
    margin = Stepwise.margin
    monkeypatch.setattr(Stepwise, "margin", lambda self, state: looked.append(state) or margin(self, state))
    acts, before = list[int](), None
    while batch.active:
        [state] = batch.begin()
        assert before is None or before.numbers is None  # what is over cannot be mistaken for what is
        before = state.beams
        while state.depth < 5:
            act = policy.act(state)
            assert state.beams is not None
            assert state.beams.numbers is not None
            known = np.array(state.beams.numbers[: 6 * state.depth]).reshape(-1, 6)
            np.testing.assert_array_equal(known.astype(np.float16), state.confidences[: state.depth])
            if state.depth >= asks_from:
                acts.append(act)
                assert act == policy.continues(States(state.confidences[None], np.array([state.depth])))[0]
            if act == STOP:
                break
            [state] = batch.draft()
        batch.verify()
    assert 0 < sum(acts) < len(acts)
    assert len(looked) < 0.2 * len(acts)


def test_trees_and_texts_do_not_depend_on_where_beams_lie(pocket: Pair, shipped_prompts: list[str]) -> None:
    prompt = pocket.encode_prompt(shipped_prompts[1])
    decoder = SpeculativeDecoder(pocket, StaticDepth(4), max_depth=4, top_k=5, tree_size=20)
    placed = decoder.generate(prompt, max_new_tokens=40)
    beside = decoder.generate_batch([prompt, prompt], max_new_tokens=40)[0]  # has no place for them
    assert placed.token_ids == beside.token_ids
    for one, other in zip(placed.rounds, beside.rounds, strict=True):
        assert one.tree.tokens == other.tree.tokens
        np.testing.assert_allclose(one.tree.log_probs, other.tree.log_probs, atol=1e-5)


def test_a_heads_nan_is_named(pocket: Pair, shipped_prompts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = network(ObservationSpec(4, 3, newest=1), (16,))
    batch = SpeculativeBatch(pocket, [pocket.encode_prompt(shipped_prompts[0])], max_depth=4, top_k=3)
    policy.act(batch.begin()[0])
    scored = batch.pair.head.logits
    monkeypatch.setattr(type(batch.pair.head), "logits", lambda head, hidden: scored(hidden) * np.nan)
    [state] = batch.draft()
    with pytest.raises(ModelOutputError, match="lm_head returned NaN in draft call 2"):
        policy.act(state)


@pytest.mark.skipif(sys.gettrace() is not None, reason="what traces the tests, coverage say, allocates")
def test_a_decision_keeps_nothing() -> None:
    spec = ObservationSpec(DEPTH, K, newest=1)
    policy = copy.deepcopy(network(spec, (16,)))
    states = [
        DraftState(0, 1 + row % DEPTH, DEPTH, np.zeros((DEPTH, K), np.float16), beams=laid_out(beams))
        for row, beams in enumerate(made_up_beams(40) / 9)
    ]

    def decide() -> None:
        for state in states:
            policy.act(state)

    decide()  # writes it out
    tracemalloc.start()
    decide()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 256
    assert peak < 2048  # bytes: Python's own numbers, one after the other in the same places
