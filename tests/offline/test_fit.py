import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace

from radar_rl.errors import ConfigError
from radar_rl.offline.algorithms import ALGORITHMS, fit_policy, settings_of
from radar_rl.offline.behaviour import decide
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import EPOCHS, Fitted, Training
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import States
from radar_rl.rollouts.reward import Reward


def fit(outcomes: Outcomes, name: str, episode="sequence", steps: int = EPOCHS, seed: int = 0, **settings) -> Fitted:
    data = TraceData.of(outcomes, decide(ALGORITHMS[name].behaviour, outcomes, seed), Reward(), episode)
    training = Training(steps, batch_size=128, seed=seed, follow_rate=episode == "round")
    return fit_policy(data, settings_of({"name": name, **settings}), training)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_the_exported_policy_is_the_trained_network(outcomes: Outcomes, name: str) -> None:
    fitted = fit(outcomes, name, steps=3 * EPOCHS)
    policy, algorithm = fitted.policy, fitted.algorithm
    confidences = np.repeat(outcomes.trace.confidences[:200], 7, axis=0)
    depth = np.tile(np.arange(1, 8), 200)
    observations = policy.spec.build(confidences, depth)
    states = States(confidences, depth)
    outputs = policy.outputs(states)
    if name == "cql":
        values = [algorithm.predict_value(observations, np.full(len(depth), action)) for action in (0, 1)]
        np.testing.assert_allclose(outputs, np.stack(values, axis=1), atol=1e-5)
    clear = np.abs(outputs[:, 1] - outputs[:, 0]) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(policy.continues(states)[clear], algorithm.predict(observations)[clear])


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_the_same_seed_gives_the_same_curve(outcomes: Outcomes, name: str) -> None:
    first, second = fit(outcomes, name, seed=3), fit(outcomes, name, seed=3)
    assert first.curve == second.curve
    assert fit(outcomes, name, seed=4).curve != first.curve


def test_with_rounds_as_episodes_the_rate_follows_the_policy(outcomes: Outcomes) -> None:
    fitted = fit(outcomes, "cql", episode="round")
    rates, speeds = ([row[key] for row in fitted.curve] for key in ("rate", "tokens_per_second"))
    assert rates[1:] == speeds[:-1]
    fixed = fit(outcomes, "cql")
    assert len({row["rate"] for row in fixed.curve}) == 1


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "ppo"])  # which needs longer: test_ppo.py
def test_what_is_learned_beats_the_tuned_static_depth(name: str) -> None:
    outcomes = Outcomes.of(make_trace(prompts=150, new_tokens=60, seed=5), HARDWARE)
    fitted = fit(outcomes, name, steps=300)
    static = TraceData.of(outcomes, decide("full", outcomes, 0), Reward(), "sequence").first_rate
    assert walk_policy(outcomes, fitted.policy).tokens_per_second > static


def test_divergence_is_stopped_and_named(outcomes: Outcomes) -> None:
    dear = Reward(kind="linear", cost=1e30)  # its square is more than a float holds
    data = TraceData.of(outcomes, decide("full", outcomes, 0), dear, "round")
    with pytest.raises(ConfigError, match=r"iql diverged in epoch 1: .*q_loss"):
        fit_policy(data, settings_of({"name": "iql"}), Training(EPOCHS, batch_size=16, seed=0))


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="valid: cql, iql, bc"):
        settings_of({"name": "sac"})
    with pytest.raises(ConfigError, match="expectil"):
        settings_of({"name": "iql", "expectil": 0.9})
    assert settings_of({"name": "bc", "beta": 0.1}) == {"name": "bc", **ALGORITHMS["bc"].defaults, "beta": 0.1}
