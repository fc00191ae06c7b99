"""DiscreteIQL against the exact solution of a small stochastic MDP whose best action the data lack in one state."""

import numpy as np
import torch
from numpy.typing import NDArray

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.discrete_iql import DiscreteIQL, DiscreteIQLConfig

STATES, ACTIONS, OUTCOMES, GAMMA = 6, 3, 4, 0.8

# What an action leads to: OUTCOMES equally probable next states, −1 ends; and the reward on the way.
_RNG = np.random.default_rng(16)
NEXT = _RNG.integers(-1, STATES, size=(STATES, ACTIONS, OUTCOMES))
REWARD = _RNG.normal(size=(STATES, ACTIONS, OUTCOMES)).round(1)
REWARD[2, 1] += 3.0  # by far the best in state 2, and nobody ever tried it there
TAKEN = np.ones((STATES, ACTIONS), dtype=bool)
TAKEN[2, 1] = False

Table = NDArray[np.float64]


def action_values(value: Table) -> Table:
    """[states] → [states, actions]."""
    ahead = np.where(NEXT < 0, 0.0, value[NEXT])
    return (REWARD + GAMMA * ahead).mean(axis=2)


def expectile(values: Table, share: float) -> float:
    """The number m with share · Σ (x − m)⁺ = (1 − share) · Σ (m − x)⁺, by bisection."""
    low, high = values.min(), values.max()
    for _ in range(60):
        middle = (low + high) / 2
        above, below = np.maximum(values - middle, 0).sum(), np.maximum(middle - values, 0).sum()
        low, high = (middle, high) if share * above > (1 - share) * below else (low, middle)
    return float(low)


def solved(share: float) -> tuple[Table, Table]:
    """IQL's fixed point: values [states] and action values; a share of 1 is the best action in the data."""
    value = np.zeros(STATES)
    for _ in range(200):
        q = action_values(value)
        rows = [q[s, TAKEN[s]] for s in range(STATES)]
        value = np.array([row.max() if share == 1 else expectile(row, share) for row in rows])
    return value, action_values(value)


def behaviour_value() -> Table:
    """V of the uniform behaviour, by the linear system (I − γ P) V = r."""
    transition, reward = np.zeros((STATES, STATES)), np.zeros(STATES)
    for s in range(STATES):
        for a in np.flatnonzero(TAKEN[s]):
            share = 1 / TAKEN[s].sum()
            reward[s] += share * REWARD[s, a].mean()
            for following in NEXT[s, a]:
                transition[s, following] += share / OUTCOMES * (following >= 0)
    return np.linalg.solve(np.eye(STATES) - GAMMA * transition, reward)


def everything() -> "d3rlpy.dataset.TransitionMiniBatch":
    """All transitions of the data as one batch, so that every update sees the exact frequencies."""
    state, action, outcome = (index.ravel() for index in np.indices(NEXT.shape))
    kept = TAKEN[state, action]
    state, action, outcome = state[kept], action[kept], outcome[kept]
    following = NEXT[state, action, outcome]
    one_hot = np.eye(STATES, dtype=np.float32)

    def column(values: NDArray[np.generic]) -> NDArray[np.float32]:
        return values.astype(np.float32)[:, None]

    return d3rlpy.dataset.TransitionMiniBatch(
        observations=one_hot[state],
        actions=column(action),
        rewards=column(REWARD[state, action, outcome]),
        next_observations=one_hot[following],
        next_actions=column(action),
        terminals=column(following < 0),
        intervals=column(np.ones(len(state))),
        transitions=[],
    )


def learned(share: float, updates: int = 600) -> DiscreteIQL:
    d3rlpy.seed(0)
    encoder = d3rlpy.models.VectorEncoderFactory([32])
    schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=updates)
    algorithm = DiscreteIQLConfig(
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        value_encoder_factory=encoder,
        actor_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=schedule),
        critic_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=schedule),
        actor_learning_rate=1e-2,
        critic_learning_rate=1e-2,
        gamma=GAMMA,
        tau=0.1,
        n_critics=1,  # the smaller of two estimates is none of the exact solution
        expectile=share,
        weight_temp=10.0,
    ).create()
    algorithm.create_impl((STATES,), ACTIONS)
    batch = everything()
    for _ in range(updates):
        algorithm.update(batch)
    return algorithm


def estimates(algorithm: DiscreteIQL) -> tuple[Table, Table]:
    states = np.eye(STATES, dtype=np.float32)
    q = [algorithm.predict_value(states, np.full(STATES, action)) for action in range(ACTIONS)]
    assert algorithm.impl is not None
    with torch.no_grad():
        value = algorithm.impl.modules.value_func(torch.from_numpy(states))[:, 0].numpy()
    return value.astype(np.float64), np.stack(q, axis=1).astype(np.float64)


def test_the_exact_solutions_differ_enough_to_be_told_apart() -> None:
    np.testing.assert_allclose(solved(0.5)[0], behaviour_value(), atol=1e-6)
    every = np.zeros(STATES)
    for _ in range(200):
        every = action_values(every).max(axis=1)
    best, q = solved(1)
    assert every[2] > best[2] + 1  # the true optimum takes what the data lack
    assert (best > behaviour_value() + 0.2).all()
    ordered = np.sort(np.where(TAKEN, q, -np.inf), axis=1)
    assert (ordered[:, -1] - ordered[:, -2] > 0.4).all()  # no ties among the actions in the data


def test_at_one_half_the_value_is_the_behaviours() -> None:
    value, q = estimates(learned(0.5))
    np.testing.assert_allclose(value, behaviour_value(), atol=0.05)
    np.testing.assert_allclose(q[TAKEN], action_values(behaviour_value())[TAKEN], atol=0.05)


def test_towards_one_it_approaches_the_best_that_the_data_hold_and_acts_on_it() -> None:
    best, best_q = solved(1)
    distance = {}
    for share in (0.8, 0.98):
        algorithm = learned(share)
        value, q = estimates(algorithm)
        fixed_point, fixed_q = solved(share)
        np.testing.assert_allclose(value, fixed_point, atol=0.08)
        np.testing.assert_allclose(q[TAKEN], fixed_q[TAKEN], atol=0.08)
        distance[share] = np.abs(value - best).max()
    assert distance[0.98] < distance[0.8] / 2
    assert distance[0.98] < 0.15
    # Not the true optimum: an action that nobody took is neither valued nor chosen.
    in_sample = np.where(TAKEN, best_q, -np.inf).argmax(axis=1)
    np.testing.assert_array_equal(algorithm.predict(np.eye(STATES, dtype=np.float32)), in_sample)
