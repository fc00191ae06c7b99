"""RADAR's training: its returns, what it refuses, and that it learns."""

import numpy as np
import pytest
import torch
from synthetic_trace import HARDWARE, make_trace, with_features

from radar_rl.errors import ConfigError
from radar_rl.offline.algorithms import fit_policy, settings_of
from radar_rl.offline.behaviour import decide
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import EPOCHS, Fitted, Training
from radar_rl.offline.radar import Rounds, discounted, return_table
from radar_rl.offline.recurrent import RecurrentNetwork
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies import RadarPolicy
from radar_rl.rollouts.reward import Reward

THEIRS = Reward(kind="radar", alpha=0.03, beta=0.004)
SMALL = {"lstm_hidden": 12, "mlp_hidden": 16}


def data_of(outcomes: Outcomes, reward: Reward = THEIRS, **changes) -> TraceData:
    made = {"behaviour": "full", "episode": "round", "observation": ("confidences", "depth")} | changes
    decisions = decide(made["behaviour"], outcomes, 0)
    return TraceData.of(outcomes, decisions, reward, made["episode"], made["observation"])


def fit(data: TraceData, steps: int = EPOCHS, seed: int = 0, batch_size: int = 64, **settings) -> Fitted:
    follow = data.reward.kind == "throughput"
    training = Training(steps, batch_size, seed, follow_rate=follow)
    return fit_policy(data, settings_of({"name": "radar", **SMALL, **settings}), training)


def test_returns_are_the_discounted_rewards_of_the_decisions_up_to_the_stop() -> None:
    going, stopping = np.array([-1.0, -2.0]), np.array([[10.0, 20.0, 40.0]])
    expected = [
        [10, 0],  # stopped after call 1
        [-1 + 0.5 * 20, 20],  # after call 2
        [-1 + 0.5 * (-2 + 0.5 * 40), -2 + 0.5 * 40],  # after call 3, where nothing is decided
    ]
    np.testing.assert_allclose(discounted(going, stopping, 0.5), [expected])


def test_its_reward_is_the_published_one(outcomes: Outcomes) -> None:
    table = return_table(data_of(outcomes), rate=0.0, gamma=0.9)  # [emitted, stop, decision]
    assert table.shape == (10, 8, 7)
    seconds, decide_seconds = outcomes.seconds, HARDWARE.decide_seconds
    accepted, stop = 2, 3  # emitted 3, stopped after call 4: 4 decisions
    speed = accepted / (seconds[stop] + 4 * decide_seconds)
    assert table[accepted + 1, stop, 3] == pytest.approx(0.004 * speed, rel=1e-5)
    assert table[accepted + 1, stop, 2] == pytest.approx(-0.03 + 0.9 * 0.004 * speed, rel=1e-5)
    last = accepted / (seconds[7] + 7 * decide_seconds)  # nothing is decided after the last call
    assert table[accepted + 1, 7, 6] == pytest.approx(-0.03 + 0.9 * 0.004 * last, rel=1e-5)
    ours = return_table(data_of(outcomes, Reward()), rate=100.0, gamma=1.0)
    whole = 3 - 100.0 * (seconds[stop] + 4 * decide_seconds)
    assert ours[3, stop, 0] == pytest.approx(whole, rel=1e-4)


def test_the_gradient_is_that_of_the_expected_return(outcomes: Outcomes) -> None:
    data = data_of(outcomes)
    rounds, returns = Rounds(data), torch.from_numpy(return_table(data, 0.0, 1.0)).float()
    torch.manual_seed(1)
    network = RecurrentNetwork(10, 4, 4, dropout=0.0)
    row = np.flatnonzero(~outcomes.trace.censored)[:1].astype(np.int32)
    loss = rounds.loss(network, np.repeat(row, 60_000), returns)
    sampled = torch.autograd.grad(loss, network.mlp[3].bias)[0]
    # The expectation, written out over the eight ways in which the round can end.
    stop = torch.softmax(network(rounds.states(row)), dim=-1)[0, :, 0]
    reach = torch.cat((torch.ones(1), torch.cumprod(1 - stop, dim=0)))
    ends = reach * torch.cat((stop, torch.ones(1)))
    emitted = [int(outcomes.trace.stop(row, depth)[0][0]) for depth in range(1, 9)]
    earned = torch.stack([returns[emitted[i], i, 0] for i in range(8)])
    exact = torch.autograd.grad(-(ends * earned).sum() / 7, network.mlp[3].bias)[0]
    np.testing.assert_allclose(sampled, exact, atol=0.02 * float(exact.abs().max()) + 1e-3)


def test_the_exported_policy_is_the_trained_network(outcomes: Outcomes) -> None:
    fitted = fit(data_of(outcomes), steps=3 * EPOCHS, learning_rate=1e-2)
    assert isinstance(fitted.policy, RadarPolicy)
    states = outcomes.trace.confidences[:100].astype(np.float32)
    with torch.no_grad():
        expected = torch.softmax(fitted.algorithm(torch.from_numpy(states)), dim=-1)[..., 0]
    np.testing.assert_allclose(fitted.policy.stop_probability(states), expected, atol=1e-5)
    assert not fitted.algorithm.training  # without dropout


def test_the_same_seed_gives_the_same_curve(outcomes: Outcomes) -> None:
    data = data_of(outcomes)
    first = fit(data, seed=3).curve
    assert fit(data, seed=3).curve == first
    assert fit(data, seed=4).curve != first
    assert {"loss", "test_loss", "speed_ratio", "tokens_per_second"} <= set(first[0])


def test_it_learns_to_stop_and_under_our_objective_beats_the_tuned_static_depth() -> None:
    outcomes = Outcomes.of(make_trace(prompts=60, new_tokens=60, seed=5), HARDWARE)
    data = data_of(outcomes, Reward())
    fitted = fit(data, steps=400, batch_size=256, learning_rate=3e-3)
    assert walk_policy(outcomes, fitted.policy).tokens_per_second > data.first_rate
    rates, speeds = ([row[key] for row in fitted.curve] for key in ("rate", "tokens_per_second"))
    assert rates[1:] == speeds[:-1]


def test_a_dearer_draft_call_makes_shorter_rounds() -> None:
    outcomes = Outcomes.of(make_trace(prompts=40, new_tokens=50, seed=5), HARDWARE)
    calls = []
    for alpha in (0.0, 1.0):
        data = data_of(outcomes, Reward(kind="radar", alpha=alpha, beta=0.004))
        calls.append(fit(data, steps=300, learning_rate=1e-2).curve[-1]["draft_calls"])
    assert calls[1] < calls[0] - 1


def test_data_that_do_not_do_are_refused(outcomes: Outcomes) -> None:
    with pytest.raises(ConfigError, match="add episode=round"):
        fit(data_of(outcomes, Reward(), episode="sequence"))
    with pytest.raises(ConfigError, match="takes nobody's actions"):
        fit(data_of(outcomes, behaviour="uniform"))
    seeing = Outcomes.of(with_features(outcomes.trace), HARDWARE)
    with pytest.raises(ConfigError, match="reads the confidences alone"):
        fit(data_of(seeing, observation=("confidences", "entropy")))


def test_divergence_is_stopped_and_named(outcomes: Outcomes) -> None:
    with pytest.raises(ConfigError, match=r"radar diverged in epoch 1: .*loss"):
        fit(data_of(outcomes, Reward(kind="radar", alpha=1e200)), learning_rate=1e-3)
