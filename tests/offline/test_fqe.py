"""Fitted Q evaluation on a trace whose values are known."""

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, with_features, written_out

from radar_rl.errors import ConfigError, TraceError
from radar_rl.offline.behaviour import decide, stopping_at
from radar_rl.offline.buffer import TraceObservations
from radar_rl.offline.fqe import ChoiceShown, FQESettings, depths_of, fit_value
from radar_rl.offline.returns import policy_values, start_rows
from radar_rl.offline.shaping import potential
from radar_rl.offline.transitions import TraceTransitions
from radar_rl.offline.walk import Outcomes, choices, policy_depths, walk_policy
from radar_rl.policies import ConfidenceThreshold, LearnedPolicy, ObservationSpec, StaticDepth
from radar_rl.policies.observation import DEFAULT_FEATURES
from radar_rl.rollouts.reward import Reward

REWARD = Reward(rate=350.0)


def seen_by(outcomes: Outcomes, policy) -> ChoiceShown:
    spec = ObservationSpec(8, 10, floor=-10.0)
    return ChoiceShown(TraceObservations(spec, outcomes.trace.confidences), choices(policy, outcomes.trace))


POLICIES = [StaticDepth(3), StaticDepth(8), ConfidenceThreshold(0.4), ConfidenceThreshold(0.4, asks_from=3)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_texts_value_is_what_the_walk_emits_less_its_seconds(outcomes: Outcomes, policy) -> None:
    depths, paid = depths_of(choices(policy, outcomes.trace)), outcomes.paid(policy.pays_decisions, policy.asks_from)
    np.testing.assert_array_equal(depths, policy_depths(outcomes, policy))
    run = walk_policy(outcomes, policy)
    texts = outcomes.trace.sequence[outcomes.trace.first_row]
    np.testing.assert_allclose(
        policy_values(outcomes, REWARD, "sequence", depths, paid), (run.emitted - REWARD.rate * run.seconds)[texts]
    )
    # A round's: uncensored rows only, nothing follows.
    rows = start_rows(outcomes.trace, "round")
    assert not outcomes.trace.censored[rows].any()
    made = depths[rows].astype(np.int64)
    decided = np.clip(np.minimum(made, 7) - (policy.asks_from - 1), 0, None) * policy.pays_decisions
    seconds = outcomes.seconds[made - 1] + HARDWARE.decide_seconds * decided
    np.testing.assert_allclose(
        policy_values(outcomes, REWARD, "round", depths, paid),
        outcomes.emitted[rows, made - 1] - REWARD.rate * seconds,
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["throughput", "radar"])
def test_what_transitions_earn_adds_up_to_the_value(policy, kind: str) -> None:
    outcomes = Outcomes.of(make_trace(prompts=6, new_tokens=20, cut=False), HARDWARE)
    depths, paid = policy_depths(outcomes, policy), outcomes.paid(policy.pays_decisions, policy.asks_from)
    reward = Reward(kind, rate=350.0)
    transitions = TraceTransitions.of(outcomes, stopping_at(outcomes, depths), reward, "round", paid=paid)
    made = written_out(transitions)
    earned = np.bincount(made.row, weights=made.reward, minlength=len(depths))
    np.testing.assert_allclose(earned, policy_values(outcomes, reward, "round", depths, paid), atol=1e-5)


def test_choices_are_asked_of_features_that_were_read(outcomes: Outcomes) -> None:
    spec = ObservationSpec(8, 10, (*DEFAULT_FEATURES, "entropy"))
    zeros = np.zeros((2, spec.size), dtype=np.float32)
    policy = LearnedPolicy("still", spec, [(zeros, np.zeros(2, dtype=np.float32))])
    with pytest.raises(TraceError, match="entropy"):
        choices(policy, outcomes.trace)
    assert not choices(policy, with_features(outcomes.trace)).any()


@pytest.mark.parametrize(("shaped", "behaviour"), [(True, "uniform"), (False, "full")])
def test_rounds_are_valued_as_the_replay_values_them(outcomes: Outcomes, shaped: bool, behaviour) -> None:
    """Plain rewards with every decision shown: a stop after four calls is in an eighth of the rounds of ``uniform``."""
    phi = potential(outcomes, REWARD, "round") if shaped else None
    transitions = TraceTransitions.of(outcomes, decide(behaviour, outcomes, 0), REWARD, "round", phi)
    rows, seen = start_rows(outcomes.trace, "round"), seen_by(outcomes, StaticDepth(4))
    exact = policy_values(outcomes, REWARD, "round", depths_of(seen.table), outcomes.paid(True)).mean()
    errors = []
    for steps in (20, 400):
        settings = FQESettings(steps, batch_size=256, learning_rate=3e-3, target_update_interval=10)
        told = fit_value("static-4", seen, transitions, settings).at_first_call(seen, rows)
        errors.append(abs((told if phi is None else told + phi[rows, 0]).mean() - exact))
    assert errors[1] < 0.15
    assert errors[1] < 0.5 * errors[0]


def test_texts_are_valued_through_all_their_rounds() -> None:
    trace = make_trace(prompts=30, new_tokens=16, cut=False)
    outcomes = Outcomes.of(trace, HARDWARE)
    transitions = TraceTransitions.of(outcomes, decide("full", outcomes, 0), REWARD, "sequence")
    seen = seen_by(outcomes, StaticDepth(1))
    exact = policy_values(outcomes, REWARD, "sequence", depths_of(seen.table), outcomes.paid(True)).mean()
    untrained, trained = (
        fit_value(
            "static-1",
            seen,
            transitions,
            FQESettings(steps=steps, batch_size=256, learning_rate=3e-3, target_update_interval=10),
        )
        .at_first_call(seen, trace.first_row)
        .mean()
        for steps in (20, 1000)
    )
    assert abs(trained - exact) < 0.35 * abs(untrained - exact)


def test_the_same_seed_gives_the_same_estimate(outcomes: Outcomes) -> None:
    transitions = TraceTransitions.of(outcomes, decide("uniform", outcomes, 0), REWARD, "round")
    seen, rows = seen_by(outcomes, StaticDepth(4)), np.arange(20)
    first, second, other = (
        fit_value("static-4", seen, transitions, FQESettings(steps=20, batch_size=32, seed=seed)).at_first_call(
            seen, rows
        )
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_a_loss_that_is_not_finite_is_named(outcomes: Outcomes) -> None:
    transitions = TraceTransitions.of(outcomes, decide("uniform", outcomes, 0), REWARD, "round")
    settings = FQESettings(steps=20, batch_size=32, learning_rate=1e30)
    with pytest.raises(ConfigError, match=r"of static-4 diverged in epoch \d: .*fqe\.learning_rate"):
        fit_value("static-4", seen_by(outcomes, StaticDepth(4)), transitions, settings)


def test_estimates_that_ran_away_within_what_floats_hold_are_named(outcomes: Outcomes) -> None:
    transitions = TraceTransitions.of(outcomes, decide("uniform", outcomes, 0), REWARD, "round")
    seen = seen_by(outcomes, StaticDepth(4))
    with pytest.raises(ConfigError, match=r"of static-4 diverged in epoch 1: weights not finite, or past 1e\+06"):
        fit_value("static-4", seen, transitions, FQESettings(steps=100, batch_size=32, learning_rate=1e8))
    fitted = fit_value("static-4", seen, transitions, FQESettings(steps=20, batch_size=32, learning_rate=1e3))
    with pytest.raises(ConfigError, match=r"of static-4 diverged in epoch 20: values past 1e\+06 tokens"):
        fitted.at_first_call(seen, np.arange(20))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 5},
        {"steps": 20.5},
        {"seed": -1},
        {"seed": 2**32},
        {"learning_rate": 0.0},
        {"hidden": ()},
        {"hidden": (8, 0)},
        {"hidden": ["a"]},
        {"n_critics": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=rf"fqe\.{next(iter(wrong))}: expected"):
        FQESettings(**wrong)
