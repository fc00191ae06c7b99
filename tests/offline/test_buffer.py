from dataclasses import replace

import numpy as np
import pytest
from synthetic_trace import HARDWARE, with_features, written_out

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.behaviour import decide
from radar_rl.offline.buffer import AHEAD, TraceObservations, TransitionBuffer
from radar_rl.offline.transitions import TraceTransitions, Transitions
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.observation import ObservationSpec
from radar_rl.rollouts.reward import Reward
from radar_rl.speculative.features import COLUMNS


@pytest.fixture
def source(outcomes: Outcomes) -> TraceObservations:
    return TraceObservations(ObservationSpec(), outcomes.trace.confidences)


@pytest.fixture
def transitions(outcomes: Outcomes) -> Transitions:
    return written_out(TraceTransitions.of(outcomes, decide("full", outcomes, 0), Reward(rate=300.0), "sequence"))


def test_a_batch_holds_transitions_of_the_table(source: TraceObservations, transitions: Transitions) -> None:
    batch = TransitionBuffer(source, transitions, seed=0).sample_transition_batch(64)
    assert batch.observations.shape == batch.next_observations.shape == (64, 81)
    assert batch.actions.shape == batch.rewards.shape == batch.terminals.shape == (64, 1)
    whole = source.observe(transitions.row, transitions.depth)
    for i in range(64):
        same = np.flatnonzero(
            (whole == batch.observations[i]).all(axis=1) & (transitions.action == batch.actions[i, 0])
        )
        assert len(same) == 1
        j = same[0]
        assert batch.rewards[i, 0] == transitions.reward[j]
        assert batch.terminals[i, 0] == transitions.terminal[j]
        if not transitions.terminal[j]:
            ahead = source.observe(transitions.next_row[[j]], transitions.next_depth[[j]])[0]
            np.testing.assert_array_equal(batch.next_observations[i], ahead)


def test_both_states_of_a_batch_are_what_the_layout_builds(outcomes: Outcomes) -> None:
    trace = with_features(outcomes.trace, feature_dim=4)
    spec = ObservationSpec(features=("confidences", "depth", *COLUMNS), floor=-10.0, feature_dim=4)
    transitions = TraceTransitions.of(outcomes, decide("full", outcomes, 0), Reward(rate=300.0), "sequence")
    buffer = TransitionBuffer(TraceObservations(spec, trace.confidences, trace.features), transitions, seed=0)
    batch = buffer.sample_transition_batch(1024)
    drawn = transitions.take(np.random.default_rng(0).integers(len(transitions), size=AHEAD * 1024)[:1024])

    def built(row: np.ndarray, depth: np.ndarray) -> np.ndarray:
        return spec.build(trace.confidences[row], depth, {name: x[row] for name, x in trace.features.items()})

    np.testing.assert_array_equal(batch.observations, built(drawn.row, drawn.depth))
    goes_on = ~drawn.terminal
    assert not goes_on.all()
    ahead = built(drawn.next_row[goes_on], drawn.next_depth[goes_on])
    np.testing.assert_array_equal(batch.next_observations[goes_on], ahead)
    assert np.isfinite(batch.next_observations).all()  # whatever follows the last state, zero times it must be zero


def test_the_seed_decides_the_draws(source: TraceObservations, transitions: Transitions) -> None:
    def actions(seed: int) -> np.ndarray:
        return TransitionBuffer(source, transitions, seed).sample_transition_batch(100).actions

    np.testing.assert_array_equal(actions(1), actions(1))
    assert (actions(1) != actions(2)).any()


def test_after_a_change_of_prices_no_old_transition_is_drawn(
    source: TraceObservations, transitions: Transitions
) -> None:
    buffer = TransitionBuffer(source, transitions, seed=0)
    buffer.sample_transition_batch(32)
    buffer.replace(replace(transitions, reward=np.full(len(transitions), 7.0, dtype=np.float32)))
    assert (buffer.sample_transition_batch(32).rewards == 7.0).all()


def test_weights_decide_how_often_a_transition_is_drawn(source: TraceObservations, outcomes: Outcomes) -> None:
    decisions = decide("oracle", outcomes, 0)
    transitions = TraceTransitions.of(outcomes, decisions, Reward(rate=300.0), "sequence")
    buffer = TransitionBuffer(source, transitions, seed=0)
    assert transitions.weight is not None
    drawn = np.concatenate([buffer.sample_transition_batch(1000).actions[:, 0] for _ in range(20)])
    continues = written_out(decisions).action == 1
    expected = transitions.weight[continues].sum() / transitions.weight.sum()
    assert drawn.mean() == pytest.approx(expected, abs=0.02)
    assert abs(expected - continues.mean()) > 0.05  # or the weights would say nothing


def test_d3rlpy_is_told_of_two_actions_whatever_the_data_hold(
    source: TraceObservations, transitions: Transitions
) -> None:
    info = TransitionBuffer(source, transitions, seed=0).dataset_info
    assert info.action_size == 2
    assert info.action_space == d3rlpy.ActionSpace.DISCRETE
    assert tuple(info.observation_signature.shape[0]) == (81,)


def test_what_needs_episodes_is_refused_by_name(source: TraceObservations, transitions: Transitions) -> None:
    buffer = TransitionBuffer(source, transitions, seed=0)
    with pytest.raises(NotImplementedError, match="trajectories"):
        buffer.sample_trajectory(3)
    with pytest.raises(NotImplementedError, match="appending"):
        buffer.append(0, 0, 0)


def test_the_profile_is_in_the_rewards(outcomes: Outcomes, transitions: Transitions) -> None:
    slow = Outcomes.of(outcomes.trace, type(HARDWARE)(**{**vars(HARDWARE), "draft_seconds": (0.01,)}))
    dear = written_out(TraceTransitions.of(slow, decide("full", slow, 0), Reward(rate=300.0), "sequence"))
    assert (dear.reward < transitions.reward).all()


def test_for_who_looks_at_no_next_state_none_is_made(source: TraceObservations, transitions: Transitions) -> None:
    batch, alone = (
        TransitionBuffer(source, transitions, seed=0, bootstraps=bootstraps).sample_transition_batch(64)
        for bootstraps in (True, False)
    )
    assert not np.array_equal(batch.next_observations, batch.observations)
    np.testing.assert_array_equal(alone.next_observations, alone.observations)
    for part in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(getattr(alone, part), getattr(batch, part))


def test_cloning_learns_the_same_from_a_buffer_without_next_states(
    source: TraceObservations, transitions: Transitions
) -> None:
    losses = []
    for bootstraps in (True, False):
        d3rlpy.seed(0)
        algorithm = d3rlpy.algos.DiscreteBCConfig(batch_size=64).create(device=False)
        algorithm.create_impl((source.size,), 2)
        buffer = TransitionBuffer(source, transitions, 0, bootstraps)
        losses.append([algorithm.update(buffer.sample_transition_batch(64))["loss"] for _ in range(5)])
    assert losses[0] == losses[1]
