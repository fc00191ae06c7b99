"""A policy asked call by call decides what its network, and ``continues``, say of the whole observation."""

import copy
import pickle
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from stepwise_network import EVERYTHING, GOING, made_up, network

from radar_rl.errors import InputError, ModelOutputError
from radar_rl.policies import CONTINUE, LearnedPolicy, ObservationSpec, States
from radar_rl.policies.stepwise import Stepwise
from radar_rl.runtime.decide import decide
from radar_rl.runtime.decoder import features_of
from radar_rl.speculative import Pair, SpeculativeBatch
from radar_rl.speculative.state import DraftState

DEPTHS = range(1, 5)


def torch_outputs(policy: LearnedPolicy, observation: np.ndarray) -> np.ndarray:
    modules: list[torch.nn.Module] = []
    for weight, bias in policy.layers:
        linear = torch.nn.Linear(*weight.shape)
        linear.load_state_dict({"weight": torch.from_numpy(weight.T), "bias": torch.from_numpy(bias)})
        modules += [linear, torch.nn.ReLU()]
    with torch.no_grad():
        return torch.nn.Sequential(*modules[:-1])(torch.from_numpy(observation)).numpy()


@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
@pytest.mark.parametrize(
    "spec",
    [
        ObservationSpec(4, 3),
        ObservationSpec(4, 3, ("depth",)),
        ObservationSpec(4, 3, ("ngram", "confidences"), newest=1),
        ObservationSpec(4, 3, EVERYTHING, floor=-7.0, feature_dim=5),
        ObservationSpec(4, 3, EVERYTHING[::-1], floor=-7.0, feature_dim=5, newest=2),
        ObservationSpec(4, 3, EVERYTHING, floor=-7.0, feature_dim=5, newest=4),
    ],
    ids=lambda value: f"{len(value.features)}-{value.newest}" if isinstance(value, ObservationSpec) else str(value),
)
def test_margins_are_those_of_the_network_over_the_observation(spec: ObservationSpec, hidden: tuple[int, ...]) -> None:
    policy, (confidences, features) = network(spec, hidden), made_up(20, spec)
    stepwise = Stepwise(spec, policy.layers)
    for row in range(20):
        of_row = {name: values[row] for name, values in features.items()}
        look = (confidences[row], of_row)
        for depth in (1, 2, 2, 4, 3) if row % 2 else DEPTHS:  # calls in turn, or some passed over and asked again
            alone = {name: values[row : row + 1] for name, values in features.items()}
            observed = spec.build(confidences[row : row + 1], np.array([depth]), alone)
            state = DraftState(0, depth, 4, confidences[row], features=of_row, look=lambda check, look=look: look)
            found, (stop, go) = stepwise.margin(state), torch_outputs(policy, observed)[0]
            assert found is not None
            np.testing.assert_allclose(found, go - stop, atol=1e-5, rtol=1e-5)
            continues = policy.continues(States(confidences[row : row + 1], np.array([depth]), alone))[0]
            assert (policy.act(DraftState(0, depth, 4, confidences[row], features=of_row)) == CONTINUE) == continues


@pytest.mark.parametrize("newest", [None, 2])
@pytest.mark.parametrize("texts", [1, 3, 6])
def test_live_decisions_are_those_of_the_whole_observation(
    pocket: Pair, shipped_prompts: list[str], texts: int, newest: int | None
) -> None:
    spec = ObservationSpec(5, 6, EVERYTHING, feature_dim=8, newest=newest)
    policy = network(spec, towards_going=GOING[newest])
    prompts = [pocket.encode_prompt(text) for text in shipped_prompts[:texts]]
    asked: Any = {"max_depth": 5, "top_k": 6, "max_new_tokens": 24, "draft_source": "hybrid", **features_of(policy)}
    batch, policies = SpeculativeBatch(pocket, prompts, **asked), [copy.deepcopy(policy) for _ in prompts]
    acts = []
    while batch.active:
        states = batch.begin()
        rows, deciding = list(range(len(states))), [policies[i] for i in batch.active]
        while rows and states[0].depth < 5:
            made = decide([deciding[row] for row in rows], states)
            kept = [(state.confidences[None], state.features) for state in states]  # float16, as a trace has them
            for state, act, (confidences, features) in zip(states, made, kept, strict=True):
                columns = {name: values[None] for name, values in features.items()}
                margin = np.diff(policy.outputs(States(confidences, np.array([state.depth]), columns))[0])[0]
                assert act == (margin > 0) or abs(margin) < 1e-5
            acts += made
            rows = [row for row, act in zip(rows, made, strict=True) if act == CONTINUE]
            states = batch.draft(rows) if rows else states
        batch.verify()
    assert 0 < sum(acts) < len(acts)


def test_nothing_of_one_text_reaches_another() -> None:
    spec = ObservationSpec(4, 3, EVERYTHING, feature_dim=5)
    policy, (confidences, features) = network(spec), made_up(40, spec)
    generator = np.random.default_rng(1)
    states = [
        DraftState(0, int(generator.integers(1, 5)), 4, confidences[i], features={k: v[i] for k, v in features.items()})
        for i in generator.integers(0, 40, size=200)
    ]
    fresh = [copy.deepcopy(policy).act(state) for state in states]
    assert [policy.act(state) for state in states] == fresh
    assert 0 < sum(fresh) < len(fresh)
    assert copy.deepcopy(policy).layers[0][0] is policy.layers[0][0]
    carried = pickle.loads(pickle.dumps(policy))  # noqa: S301 as a sweep carries it to another process
    assert [carried.act(state) for state in states] == fresh


@pytest.mark.skipif(sys.gettrace() is not None, reason="what traces the tests, coverage say, allocates")
def test_a_decision_makes_no_arrays() -> None:
    spec = ObservationSpec(4, 3, EVERYTHING, feature_dim=64, newest=2)
    policy, (confidences, features) = network(spec, (256, 256)), made_up(8, spec)
    told = (confidences[0].copy(), {name: np.array(values[0]) for name, values in features.items()})

    def rounds() -> None:  # as ``RoundReading`` tells them: in the same memory, another tuple in each
        for row in range(8):
            told[0][:] = confidences[row]
            for name, values in features.items():
                told[1][name][...] = values[row]
            look = (told[0], told[1])
            for depth in DEPTHS:
                policy.act(DraftState(0, depth, 4, told[0], look=lambda check, look=look: look))

    rounds()  # makes them
    tracemalloc.start()
    rounds()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024  # bytes; a row of the first layer's outputs alone are as many


def test_what_cannot_be_decided_from_is_told_as_of_many_rows() -> None:
    spec = ObservationSpec(4, 3, ("confidences", "entropy"))
    policy = network(spec)
    good, entropy = np.zeros((4, 3), np.float16), np.zeros(4, np.float16)
    for confidences, features, told in (
        (good, {}, "entropy"),
        (good, {"entropy": np.zeros(3, np.float16)}, "expected 4 numbers a state"),
        (good[:3], {"entropy": entropy}, r"expected \[N, 4, 3\]"),
        (np.full((4, 3), np.nan, np.float16), {"entropy": entropy}, "NaN"),
    ):
        with pytest.raises((InputError, KeyError), match=told):
            policy.act(DraftState(0, 2, 4, confidences, features=features))
        policy.act(DraftState(0, 2, 4, good, features={"entropy": entropy}))  # and goes on
    ahead = np.where(np.arange(4)[:, None] < 2, good, np.nan).astype(np.float16)
    policy.act(DraftState(0, 2, 4, ahead, features={"entropy": entropy}))  # of calls not made


def test_nan_of_a_model_is_named_by_who_returned_it(
    pocket: Pair, shipped_prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = network(ObservationSpec(4, 3))
    batch = SpeculativeBatch(pocket, [pocket.encode_prompt(shipped_prompts[0])], max_depth=4, top_k=3)
    policy.act(batch.begin()[0])
    scored = batch.pair.head.logits
    monkeypatch.setattr(type(batch.pair.head), "logits", lambda head, hidden: scored(hidden) * torch.nan)
    state = batch.draft()[0]
    with pytest.raises(ModelOutputError, match="lm_head returned NaN in draft call 2"):
        policy.act(state)
