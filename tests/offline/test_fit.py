import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace

from radar_rl.configs import load
from radar_rl.errors import ConfigError
from radar_rl.offline.algorithms import ALGORITHMS, fit_policy, settings_of
from radar_rl.offline.behaviour import decide
from radar_rl.offline.buffer import TransitionBuffer
from radar_rl.offline.data import TraceData
from radar_rl.offline.encoder import encoder_factory
from radar_rl.offline.fit import EPOCHS, Fitted, Training
from radar_rl.offline.qlearning import fit_qlearning, make_algorithm
from radar_rl.offline.ranges import RANGES, check_ranges
from radar_rl.offline.tuning import tune_static
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import States
from radar_rl.policies.at_once import written_out
from radar_rl.policies.observation import DEFAULT_NEWEST
from radar_rl.rollouts.reward import Reward
from radar_rl.runtime.profiler import default_network

QLEARNING = [name for name, algorithm in ALGORITHMS.items() if algorithm.learner is fit_qlearning]  # others: own tests


def fit(
    outcomes: Outcomes,
    name: str,
    episode="sequence",
    steps: int = EPOCHS,
    seed: int = 0,
    batch_size: int = 128,
    **settings,
) -> Fitted:
    decisions = decide(ALGORITHMS[name].behaviour, outcomes, seed)
    data = TraceData.of(outcomes, decisions, Reward(), episode, newest=DEFAULT_NEWEST)
    training = Training(steps, batch_size=batch_size, seed=seed, follow_rate=episode == "round")
    return fit_policy(data, settings_of({"name": name, **settings}), training)


@pytest.mark.parametrize("name", QLEARNING)
def test_the_exported_policy_is_the_trained_network(outcomes: Outcomes, name: str) -> None:
    fitted = fit(outcomes, name, steps=3 * EPOCHS)
    policy, algorithm = fitted.policy, fitted.algorithm
    confidences = np.repeat(outcomes.trace.confidences[:200], 7, axis=0)
    depth = np.tile(np.arange(1, 8), 200)
    observations = policy.spec.build(confidences, depth)
    states = States(confidences, depth)
    outputs = policy.outputs(states)
    if name in ("cql", "ddqn"):
        values = [algorithm.predict_value(observations, np.full(len(depth), action)) for action in (0, 1)]
        np.testing.assert_allclose(outputs, np.stack(values, axis=1), atol=1e-5)
    clear = np.abs(outputs[:, 1] - outputs[:, 0]) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(policy.continues(states)[clear], algorithm.predict(observations)[clear])


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"radar"}))
def test_what_is_trained_by_default_is_small_enough_to_decide_at_once(outcomes: Outcomes, name: str) -> None:
    policy = fit(outcomes, name).policy
    assert len(written_out(policy.spec, policy.layers)) == outcomes.max_depth + 1
    timed = default_network(policy.spec.max_depth, policy.spec.top_k)  # by `profile`
    assert policy.spec == timed.spec
    if name != "bcq":  # its network holds two
        assert [weight.shape for weight, _ in policy.layers] == [weight.shape for weight, _ in timed.layers]


@pytest.mark.parametrize("flexibility", [0.1, 0.6, 0.95])
def test_the_exported_bcq_leaves_out_the_actions_that_the_algorithm_does(
    outcomes: Outcomes, flexibility: float
) -> None:
    # A clone's data have one action at most states, so the imitator has preferences, and the mask something to do.
    data = TraceData.of(outcomes, decide("oracle", outcomes, 0), Reward(), "sequence")
    learns = {"hidden": [64, 64], "learning_rate": 1e-2, "weight_decay": 1.0}
    settings = settings_of({"name": "bcq", "action_flexibility": flexibility, **learns})
    fitted = fit_policy(data, settings, Training(8 * EPOCHS, batch_size=128, seed=0))
    policy, algorithm = fitted.policy, fitted.algorithm
    confidences = np.repeat(outcomes.trace.confidences, 7, axis=0)
    depth = np.tile(np.arange(1, 8), len(outcomes.trace))
    states, observations = States(confidences, depth), policy.spec.build(confidences, depth)
    outputs = policy.outputs(states)
    clear = np.abs(outputs[:, 1] - outputs[:, 0]) > 1e-5
    assert clear.mean() > 0.95
    assert clear.sum() > 3000
    predicted = algorithm.predict(observations)
    np.testing.assert_array_equal(policy.continues(states)[clear], predicted[clear])
    values = [algorithm.predict_value(observations, np.full(len(depth), action)) for action in (0, 1)]
    overruled = (values[1] > values[0]) != predicted
    assert overruled.mean() > 0.02  # by the mask: a network of the values alone would decide otherwise
    assert (~overruled).mean() > 0.02


@pytest.mark.parametrize("name", QLEARNING)
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


@pytest.mark.parametrize("name", QLEARNING)
def test_what_is_learned_beats_the_tuned_static_depth(name: str) -> None:
    learned_from, unseen = (
        Outcomes.of(make_trace(prompts=150, new_tokens=60, seed=seed), HARDWARE) for seed in (5, 6)
    )
    policy = fit(learned_from, name, steps=600, batch_size=512).policy
    static = tune_static(learned_from).static
    for texts in (learned_from, unseen):
        assert walk_policy(texts, policy).tokens_per_second > walk_policy(texts, static).tokens_per_second


def test_divergence_is_stopped_and_named(outcomes: Outcomes) -> None:
    dear = Reward(kind="linear", cost=1e30)  # its square is more than a float holds
    data = TraceData.of(outcomes, decide("full", outcomes, 0), dear, "round")
    with pytest.raises(ConfigError, match=r"iql diverged in epoch 1: .*q_loss"):
        fit_policy(data, settings_of({"name": "iql"}), Training(EPOCHS, batch_size=16, seed=0))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if ALGORITHMS[name].learner is fit_qlearning])
def test_divergence_within_an_epoch_is_named_whatever_d3rlpy_makes_of_it(outcomes: Outcomes, name: str) -> None:
    """Ten updates an epoch: d3rlpy's distributions raise on the first logits that are no numbers, in mid-epoch."""
    with pytest.raises(ConfigError, match=rf"algo={name} diverged in epoch 1: .* not finite.*; lower algo"):
        fit(outcomes, name, steps=10 * EPOCHS, learning_rate=1e30)


def test_weights_that_go_in_an_epochs_last_update_are_noticed(outcomes: Outcomes) -> None:
    """No loss shows them before the next epoch."""
    with pytest.raises(ConfigError, match="algo=cql diverged in epoch 1: weights not finite"):
        fit(outcomes, "cql", steps=EPOCHS, learning_rate=1e30)


def test_an_error_that_is_no_divergence_stays_what_it_is(outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(TransitionBuffer, "sample_transition_batch", broken)
    with pytest.raises(KeyError, match="a bug"):
        fit(outcomes, "cql")


def test_iqls_temperature_is_per_token(outcomes: Outcomes) -> None:
    """Advantages arrive as rewards are scaled, so their weight is scaled the other way."""
    settings = settings_of({"name": "iql", "weight_temp": 3.0})
    algorithm = make_algorithm(settings, encoder_factory(np.zeros((4, 81), dtype=np.float32), [8]), 16, 20)
    assert algorithm.config.weight_temp * algorithm.config.reward_scaler.multiplier == pytest.approx(3.0)


def test_iqls_critics_have_widths_of_their_own(outcomes: Outcomes) -> None:
    fitted = fit(outcomes, "iql", hidden=[5], critic_hidden=[7, 6])
    assert [weight.shape[1] for weight, _ in fitted.policy.layers] == [5, 2]
    modules = fitted.algorithm.impl.modules
    for network in (*modules.q_funcs, *modules.targ_q_funcs, modules.value_func):
        assert [layer.out_features for layer in network._encoder.layers] == [7, 6]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="valid: cql, iql, bc, bcq, ddqn"):
        settings_of({"name": "sac"})
    with pytest.raises(ConfigError, match="expectil"):
        settings_of({"name": "iql", "expectil": 0.9})
    assert settings_of({"name": "bc", "beta": 0.1}) == load("algo", "bc") | {"beta": 0.1}


WRONG = [
    ({"name": "bc", "learning_rate": 0}, "learning_rate: expected a finite number > 0, got 0"),
    ({"name": "cql", "learning_rate": -1e-3}, "learning_rate: expected a finite number > 0, got -0.001"),
    ({"name": "iql", "learning_rate": float("nan")}, "learning_rate: expected a finite number > 0, got nan"),
    ({"name": "ddqn", "learning_rate": "fast"}, "learning_rate: expected a finite number > 0, got 'fast'"),
    ({"name": "fitted", "weight_decay": -1}, "weight_decay: expected a finite number ≥ 0, got -1"),
    ({"name": "direct", "hidden": []}, r"hidden: expected a list, each a whole number ≥ 1, got \[\]"),
    ({"name": "bc", "hidden": [8, 0]}, "hidden: expected a list"),
    ({"name": "bc", "hidden": 64}, "hidden: expected a list"),
    ({"name": "bc", "hidden": "64"}, "hidden: expected a list"),
    ({"name": "iql", "critic_hidden": 64}, "critic_hidden: expected a list"),
    ({"name": "bcq", "action_flexibility": 0}, r"action_flexibility: expected a number in \(0, 1\), got 0"),
    ({"name": "cql", "target_update_interval": 1.5}, "target_update_interval: expected a whole number ≥ 1, got 1.5"),
    ({"name": "iql", "expectile": 1}, r"expectile: expected a number in \(0, 1\), got 1"),
    ({"name": "radar", "dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
    ({"name": "radar", "gamma": 1.1}, r"gamma: expected a number in \[0, 1\], got 1.1"),
    ({"name": "acceptance", "rejection_weight": True}, "rejection_weight: expected a finite number > 0, got True"),
    ({"name": "ppo", "n_epochs": 0}, "n_epochs: expected a whole number ≥ 1, got 0"),
    ({"name": "ppo", "num_envs": 0}, "num_envs: expected a whole number ≥ 1, got 0"),
]


@pytest.mark.parametrize(("algo", "message"), WRONG, ids=str)
def test_settings_out_of_range_are_named(algo: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"algo={algo['name']}: {message}"):
        settings_of(algo)


def test_every_setting_has_a_range_that_its_default_is_in() -> None:
    own = {name: {key: value for key, value in load("algo", name).items() if key != "name"} for name in ALGORITHMS}
    for name, settings in own.items():
        check_ranges(name, settings)
    assert {key for settings in own.values() for key in settings} == set(RANGES)
