"""RADAR's policy: the published numbers, and the same decisions in every way of asking."""

import copy
import gzip
import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recurrent_weights import make_weights
from synthetic_trace import HARDWARE, make_trace

from radar_rl.errors import ArtifactError, InputError
from radar_rl.offline.walk import Outcomes, policy_depths, walk_policy
from radar_rl.policies import CONTINUE, RadarPolicy, SampledRadar, States
from radar_rl.runtime import load_policy
from radar_rl.speculative.state import DraftState


def depth_of_the_loop(policy: RadarPolicy | SampledRadar, confidences: np.ndarray, position: int = 0) -> int:
    depth, most = 1, len(confidences)
    while depth < most and policy.act(DraftState(position, depth, most, confidences)) == CONTINUE:
        depth += 1
    return depth


@pytest.mark.parametrize("name", ["llama3", "ds", "vicuna"])
def test_the_published_weights_give_the_published_probabilities(reference: Path, name: str) -> None:
    golden = json.loads(gzip.decompress((reference / "radar" / f"{name}.golden.json.gz").read_bytes()))
    policy = load_policy(reference / "radar" / f"{name}.pt")
    assert isinstance(policy, RadarPolicy)
    states = np.array(golden["states"], dtype=np.float32)
    assert states.shape == (128, 8, 10)
    np.testing.assert_allclose(policy.stop_probability(states), golden["stop_probability"], atol=1e-5)


def test_the_probabilities_are_torchs() -> None:
    weights = make_weights()
    lstm, inner, outer = torch.nn.LSTM(3, 6, batch_first=True), torch.nn.Linear(9, 5), torch.nn.Linear(5, 2)
    for module, prefix in ((lstm, "lstm."), (inner, "mlp.0."), (outer, "mlp.3.")):
        own = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in weights.items() if k.startswith(prefix)}
        module.load_state_dict(own)
    states = -np.random.default_rng(1).exponential(3.0, size=(50, 4, 3)).astype(np.float32)
    with torch.no_grad():
        read, _ = lstm(torch.from_numpy(states))
        logits = outer(torch.relu(inner(torch.cat((read, torch.from_numpy(states)), dim=-1))))
        expected = torch.softmax(logits, dim=-1)[..., 0]
    np.testing.assert_allclose(RadarPolicy("r", weights).stop_probability(states), expected, atol=1e-6)


@given(arrays(np.float16, (6, 5, 3), elements=st.floats(-12, 0, width=16)), st.integers(0, 3))
def test_deciding_many_rows_is_deciding_each(confidences: np.ndarray, seed: int) -> None:
    policy = RadarPolicy("r", make_weights(seed=seed))
    probability = policy.stop_probability(confidences)
    near = np.abs(probability - 0.5).min(axis=1) < 1e-5  # rows that go through together may round another way
    depths = policy.stop_depths(confidences)
    each = np.array([depth_of_the_loop(policy, row) for row in confidences])
    assert (depths == each)[~near].all()
    depth = np.array([1, 4, 2, 4, 3, 1])
    going = policy.continues(States(confidences, depth))
    assert (going == (probability[np.arange(6), depth - 1] < 0.5))[~near].all()


def test_decisions_vary_and_do_not_look_ahead() -> None:
    trace = make_trace(prompts=6, new_tokens=20)
    policy = RadarPolicy("r", make_weights(top_k=10, states=trace.confidences))
    depths = policy.stop_depths(trace.confidences)
    assert len(np.unique(depths)) > 2
    later = trace.confidences.copy()
    for row, depth in enumerate(depths):
        later[row, depth:] = np.nan
    np.testing.assert_array_equal(policy.stop_depths(later), depths)
    asked = np.minimum(depths, 7)
    states = [States(confidences, asked) for confidences in (later, trace.confidences)]
    np.testing.assert_array_equal(*(policy.continues(state) for state in states))


def test_what_was_read_before_does_not_matter() -> None:
    trace = make_trace(prompts=2, new_tokens=20)
    policy = RadarPolicy("r", make_weights(top_k=10, states=trace.confidences))
    states = [DraftState(i, 1 + i % 7, 8, row) for i, row in enumerate(trace.confidences)]
    states += states[::3]
    fresh = [copy.deepcopy(policy).act(state) for state in states]
    assert [policy.act(state) for state in states] == fresh
    assert 0 < sum(fresh) < len(fresh)
    assert copy.deepcopy(policy).weights["lstm.weight_hh_l0"] is policy.weights["lstm.weight_hh_l0"]


@pytest.mark.skipif(sys.gettrace() is not None, reason="what traces the tests, coverage say, allocates")
def test_a_round_is_read_level_by_level_into_the_same_arrays() -> None:
    trace = make_trace(prompts=2, new_tokens=20)
    policy = RadarPolicy("r", make_weights(top_k=10, states=trace.confidences))
    expected, told = policy.stop_probability(trace.confidences), trace.confidences[0].copy()

    def rounds() -> float:  # as ``RoundReading`` tells them: in the same memory, another tuple in each
        furthest = 0.0
        for row, confidences in enumerate(trace.confidences[:20]):
            told[:] = np.nan
            look = (told, {})
            for depth in (1, 2, 2, 5, 4, 8):  # calls in turn, passed over, and asked again
                told[:depth] = confidences[:depth]
                state = DraftState(row, depth, 8, told, look=lambda check, look=look: look)
                furthest = max(furthest, abs(policy.stop_probability_of(state) - expected[row, depth - 1]))
        return furthest

    assert rounds() < 1e-5
    tracemalloc.start()
    rounds()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2048  # bytes
    told[:3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        policy.act(DraftState(0, 3, 8, told))
    assert policy.stop_probability_of(DraftState(0, 8, 8, trace.confidences[0])) == pytest.approx(expected[0, 7])


def test_sampled_stops_come_as_often_as_their_probability_says() -> None:
    outcomes = Outcomes.of(make_trace(prompts=40, new_tokens=60), HARDWARE)
    confidences = outcomes.trace.confidences
    policy = RadarPolicy("r", make_weights(top_k=10, states=confidences))
    draw = SampledRadar(policy, seed=3)
    draw.begin_sequence("a text")
    stops = np.array([draw.act(DraftState(i, 1, 8, row)) != CONTINUE for i, row in enumerate(confidences)])
    expected = policy.stop_probability(confidences)[:, 0]
    assert abs(stops.mean() - expected.mean()) < 4 * np.sqrt(0.25 / len(stops))
    again, other = SampledRadar(policy, seed=3), SampledRadar(policy, seed=4)
    again.begin_sequence("an earlier text")
    first = policy_depths(outcomes, draw)
    np.testing.assert_array_equal(policy_depths(outcomes, again), first)
    assert (policy_depths(outcomes, other) != first).any()
    assert walk_policy(outcomes, draw).decisions.sum() > 0


def test_other_states_are_refused() -> None:
    policy = RadarPolicy("r", make_weights())
    for states, told in ((np.zeros((2, 3)), r"\[B, L, 3\]"), (np.zeros((2, 3, 4)), "reads 3 confidences")):
        with pytest.raises(InputError, match=told):
            policy.stop_probability(states)
    with pytest.raises(InputError, match="NaN"):
        policy.stop_probability(np.full((1, 2, 3), np.nan))
    assert np.isfinite(policy.stop_probability(np.full((1, 2, 3), -np.inf))).all()


def test_other_weights_are_refused() -> None:
    good = make_weights()
    for edit, told in (
        ({"lstm.weight_ih_l1": good["lstm.weight_hh_l0"]}, r"unexpected \['lstm.weight_ih_l1'\]"),
        ({"mlp.0.weight": good["mlp.0.weight"][:, :-1]}, r"mlp.0.weight: expected \[5, 9\], got \[5, 8\]"),
        ({"lstm.weight_ih_l0": good["mlp.0.bias"]}, "lstm.weight_ih_l0: expected"),
        ({"mlp.3.bias": np.full(2, np.nan, np.float32)}, "not finite: mlp.3.bias"),
    ):
        with pytest.raises(ArtifactError, match=told):
            RadarPolicy("r", good | edit)
    with pytest.raises(ArtifactError, match=r"missing \['mlp.3.weight'\]"):
        RadarPolicy("r", {name: values for name, values in good.items() if name != "mlp.3.weight"})
