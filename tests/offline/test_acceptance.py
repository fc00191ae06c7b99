"""SpecDec++'s head: it knows what will be accepted, and what is exported stops as its threshold says."""

import numpy as np
import pytest
import torch
from synthetic_trace import HARDWARE, make_trace, with_features

from radar_rl.errors import ConfigError
from radar_rl.offline.acceptance import THRESHOLDS, fit_acceptance
from radar_rl.offline.algorithms import fit_policy, settings_of
from radar_rl.offline.behaviour import decide
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import EPOCHS, Fitted, Training
from radar_rl.offline.history import history_along
from radar_rl.offline.walk import Outcomes, policy_depths, walk_policy
from radar_rl.policies import LearnedPolicy, States
from radar_rl.rollouts.reward import Reward


def data_of(outcomes: Outcomes, observation=("confidences", "depth"), behaviour="full") -> TraceData:
    return TraceData.of(outcomes, decide(behaviour, outcomes, 0), Reward(), "sequence", observation)


def fit(data: TraceData, steps: int = EPOCHS, seed: int = 0, **settings) -> Fitted:
    return fit_policy(data, settings_of({"name": "acceptance", **settings}), Training(steps, 128, seed))


def every(outcomes: Outcomes) -> tuple[States, np.ndarray]:
    rows = np.flatnonzero(~outcomes.trace.censored)
    row, depth = np.repeat(rows, 7), np.tile(np.arange(1, 8), len(rows))
    features = {name: values[row] for name, values in outcomes.trace.features.items()}
    accepted = outcomes.accepted[row, depth - 1] >= depth
    return States(outcomes.trace.confidences[row], depth, features), accepted


def test_it_predicts_acceptance_of_the_newest_level(outcomes: Outcomes) -> None:
    fitted = fit(data_of(outcomes), steps=400, rejection_weight=1.0)
    assert isinstance(fitted.policy, LearnedPolicy)
    states, accepted = every(outcomes)
    predicted = 1 / (1 + np.exp(-fitted.policy.outputs(states)[:, 1]))
    assert abs(predicted.mean() - accepted.mean()) < 0.05
    groups = np.array_split(np.argsort(predicted), 5)
    shares = np.array([[predicted[group].mean(), accepted[group].mean()] for group in groups])
    np.testing.assert_allclose(shares[:, 0], shares[:, 1], atol=0.1)
    assert shares[-1, 1] - shares[0, 1] > 0.4
    heavier = fit(data_of(outcomes), steps=400, rejection_weight=6.0).policy.outputs(states)[:, 1]
    assert (1 / (1 + np.exp(-heavier))).mean() < predicted.mean() - 0.1


def test_the_exported_policy_stops_where_a_rejection_is_likelier_than_the_threshold(outcomes: Outcomes) -> None:
    seeing = Outcomes.of(with_features(outcomes.trace), HARDWARE)
    data = data_of(seeing, ("confidences", "depth", "entropy"))
    fitted = fit(data, steps=3 * EPOCHS, hidden=[8])
    threshold = fitted.curve[-1]["threshold"]
    assert threshold in THRESHOLDS
    states, _ = every(seeing)
    observed = torch.from_numpy(data.spec.build(states.confidences, states.depth, states.features))
    with torch.no_grad():
        rejected = 1 - torch.sigmoid(fitted.algorithm(observed)).double().numpy()
    clear = np.abs(rejected - threshold) > 1e-5
    np.testing.assert_array_equal(fitted.policy.continues(states)[clear], (rejected < threshold)[clear])


def test_the_threshold_is_the_fastest_of_the_grid(outcomes: Outcomes) -> None:
    data = data_of(outcomes)
    fitted = fit(data, steps=3 * EPOCHS)
    speeds = [
        walk_policy(outcomes, fitted.algorithm.policy(data, threshold, "x")).tokens_per_second
        for threshold in THRESHOLDS
    ]
    assert fitted.curve[-1]["tokens_per_second"] == pytest.approx(max(speeds))
    assert THRESHOLDS[int(np.argmax(speeds))] == fitted.curve[-1]["threshold"]


def test_the_threshold_is_tuned_on_the_history_that_the_policy_makes(outcomes: Outcomes) -> None:
    data = data_of(outcomes, ("confidences", "depth", "history"))
    fitted = fit(data, steps=3 * EPOCHS)
    depths = policy_depths(outcomes, fitted.policy)
    assert len(np.unique(depths)) > 1  # no static depth's
    np.testing.assert_array_equal(data.source.features["history"], history_along(outcomes.trace, depths))


def test_the_same_seed_gives_the_same_curve(outcomes: Outcomes) -> None:
    data = data_of(outcomes)
    first = fit(data, seed=3).curve
    assert fit(data, seed=3).curve == first
    assert fit(data, seed=4).curve != first


def test_what_is_learned_beats_the_tuned_static_depth() -> None:
    outcomes = Outcomes.of(make_trace(prompts=150, new_tokens=60, seed=5), HARDWARE)
    data = data_of(outcomes)
    assert walk_policy(outcomes, fit(data, steps=300).policy).tokens_per_second > data.first_rate


def test_data_that_do_not_do_are_refused(outcomes: Outcomes) -> None:
    with pytest.raises(ConfigError, match="takes nobody's actions"):
        fit(data_of(outcomes, behaviour="oracle"))
    with pytest.raises(ConfigError, match="not on rollouts"):
        fit_acceptance(None, settings_of({"name": "acceptance"}), Training(EPOCHS, 1, 0))
    with pytest.raises(ConfigError, match="acceptance diverged in epoch 1: loss"):
        fit(data_of(outcomes), rejection_weight=1e300)
