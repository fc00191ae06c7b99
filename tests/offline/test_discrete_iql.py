from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.buffer import TransitionBuffer
from radar_rl.offline.discrete_iql import DiscreteIQL, DiscreteIQLConfig
from radar_rl.offline.discrete_iql_impl import expectile_loss
from radar_rl.offline.from_rollouts import LoggedObservations
from radar_rl.offline.transitions import Transitions

GAMMA = 0.9


def chain(rewards: np.ndarray, next_state: np.ndarray) -> TransitionBuffer:
    """Every transition of a small MDP; states are one-hot. rewards, next_state: [states, 2], −1 ends."""
    states = len(rewards)
    row = np.repeat(np.arange(states), 2).astype(np.int32)
    following = next_state.ravel().astype(np.int32)
    table = Transitions(
        row=row,
        depth=np.ones(2 * states, dtype=np.int8),
        action=np.tile([0, 1], states).astype(np.int8),
        reward=rewards.ravel().astype(np.float32),
        next_row=following,
        next_depth=np.ones(2 * states, dtype=np.int8),
        terminal=following < 0,
    )
    return TransitionBuffer(LoggedObservations(np.eye(states, dtype=np.float32)), table, seed=0)


def fit(buffer: TransitionBuffer, steps: int, **settings) -> DiscreteIQL:
    d3rlpy.seed(0)
    encoder = d3rlpy.models.VectorEncoderFactory([32])
    algorithm = DiscreteIQLConfig(
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        value_encoder_factory=encoder,
        batch_size=64,
        gamma=GAMMA,
        **settings,
    ).create()
    algorithm.fit(
        buffer,
        n_steps=steps,
        n_steps_per_epoch=steps,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    return algorithm


# In state 0 action 1 pays at once but ends, action 0 leads on to where more is paid; state 2 has two equal actions.
REWARDS = np.array([[0.0, 0.5], [-0.2, 0.1], [1.0, 1.0]])
NEXT = np.array([[1, -1], [2, 0], [-1, -1]])


@pytest.fixture(scope="module")
def trained() -> DiscreteIQL:
    rates = {"critic_learning_rate": 5e-3, "actor_learning_rate": 5e-3}
    return fit(chain(REWARDS, NEXT), 800, expectile=0.97, weight_temp=10.0, tau=0.05, **rates)


def test_with_the_expectile_near_one_it_finds_the_in_sample_optimum(trained: DiscreteIQL) -> None:
    value, q = np.zeros(3), np.zeros((3, 2))
    for _ in range(100):  # value iteration, the exact solution
        q = REWARDS + GAMMA * np.where(NEXT < 0, 0.0, value[NEXT])
        value = q.max(axis=1)
    states = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(trained.predict(states)[:2], q.argmax(axis=1)[:2])
    assert q[0].argmax() == 0  # a greedy look at rewards would say 1
    estimates = np.stack([trained.predict_value(states, np.full(3, action)) for action in (0, 1)], axis=1)
    np.testing.assert_allclose(estimates, q, atol=0.08)


def test_the_value_learns_from_the_lower_of_the_twin_estimates(trained: DiscreteIQL) -> None:
    impl = deepcopy(trained.impl)
    batch = d3rlpy.TorchMiniBatch.from_batch(
        chain(REWARDS, NEXT).sample_transition_batch(64), gamma=GAMMA, compute_returns_to_go=False, device="cpu"
    )
    with torch.no_grad():
        for weight in impl.modules.targ_q_funcs[1].parameters():
            weight += 0.3  # so that the twins disagree
        both = impl._targ_q_func_forwarder.compute_expected_q(batch.observations, "none")
        taken = both.amin(dim=0).gather(1, batch.actions.long())
        told = expectile_loss(taken - impl.modules.value_func(batch.observations), 0.97)
    assert (both[0] - both[1]).abs().max() > 0.1
    assert impl.inner_update(batch, 0)["v_loss"] == pytest.approx(told.item())


def test_at_one_half_the_expectile_is_the_mean() -> None:
    u = torch.tensor([-1.0, 2.0, 3.0])
    assert expectile_loss(u, 0.5).item() == pytest.approx(0.5 * (u**2).mean().item())
    # and at 0.9 an underestimate costs nine times what an overestimate does
    assert expectile_loss(torch.tensor([1.0]), 0.9).item() == pytest.approx(
        9 * expectile_loss(-torch.ones(1), 0.9).item()
    )


def test_save_and_load_bring_back_every_answer(trained: DiscreteIQL, tmp_path: Path) -> None:
    states = np.eye(3, dtype=np.float32)
    trained.save(str(tmp_path / "whole.d3"))
    whole = d3rlpy.load_learnable(str(tmp_path / "whole.d3"))
    trained.save_model(str(tmp_path / "weights.pt"))
    other = DiscreteIQLConfig(**vars(trained.config)).create()
    other.create_impl((3,), 2)
    other.load_model(str(tmp_path / "weights.pt"))
    for copy in (whole, other):
        assert isinstance(copy, DiscreteIQL)
        np.testing.assert_array_equal(copy.predict(states), trained.predict(states))
        np.testing.assert_array_equal(
            copy.predict_value(states, np.zeros(3)), trained.predict_value(states, np.zeros(3))
        )


def test_sampled_actions_follow_the_advantage_weights(trained: DiscreteIQL) -> None:
    """With both actions equally frequent, advantage-weighted regression ends at p ∝ exp(β Q) (paper, eq. 7)."""
    state = np.eye(3, dtype=np.float32)[:1]
    gap = float(trained.predict_value(state, np.array([0]))[0] - trained.predict_value(state, np.array([1]))[0])
    torch.manual_seed(0)
    drawn = trained.sample_action(np.repeat(state, 2000, axis=0))
    assert (drawn == 0).mean() == pytest.approx(1 / (1 + np.exp(-10.0 * gap)), abs=0.12)
    assert 0.55 < (drawn == 0).mean() < 0.95


def test_fitted_q_evaluation_takes_it(trained: DiscreteIQL) -> None:
    config = d3rlpy.ope.FQEConfig(
        encoder_factory=d3rlpy.models.VectorEncoderFactory([32]),
        gamma=GAMMA,
        learning_rate=5e-3,
        batch_size=64,
        target_update_interval=20,
    )
    evaluation = d3rlpy.ope.DiscreteFQE(algo=trained, config=config)
    evaluation.fit(
        chain(REWARDS, NEXT),
        n_steps=400,
        n_steps_per_epoch=400,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    # The trained policy goes 0 → 1 → 2: γ · (−0.2 + γ · 1)
    start = evaluation.predict_value(np.eye(3, dtype=np.float32)[:1], np.array([0]))[0]
    assert start == pytest.approx(GAMMA * (-0.2 + GAMMA), abs=0.1)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = (fit(chain(REWARDS, NEXT), 20) for _ in range(2))
    states = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(first.predict_value(states, np.ones(3)), second.predict_value(states, np.ones(3)))
