"""DiscreteIQL does what d3rlpy's own algorithms do, on d3rlpy's own data sets (see its ``algo_tester``)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.discrete_iql import DiscreteIQL, DiscreteIQLConfig

SIZE, ACTIONS, STEPS = 4, 3, 12
SILENT = {"show_progress": False, "logger_adapter": d3rlpy.logging.NoopAdapterFactory()}


def mdp_dataset() -> "d3rlpy.dataset.MDPDataset":
    """Twelve episodes of ten steps; some end, the others are cut."""
    rng, steps = np.random.default_rng(0), np.arange(120)
    return d3rlpy.dataset.MDPDataset(
        observations=rng.normal(size=(120, SIZE)).astype(np.float32) * [1, 1, 1, 30],
        actions=steps[:, None] % ACTIONS,
        rewards=rng.normal(size=(120, 1)).astype(np.float32),
        terminals=(steps % 20 == 9).astype(np.float32),
        timeouts=(steps % 20 == 19).astype(np.float32),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=ACTIONS,
    )


def replay_buffer() -> "d3rlpy.dataset.ReplayBuffer":
    """The same episodes in a buffer of d3rlpy's that forgets the oldest."""
    return d3rlpy.dataset.create_fifo_replay_buffer(limit=100, episodes=mdp_dataset().episodes)


def scaled() -> dict[str, Any]:
    return {
        "observation_scaler": d3rlpy.preprocessing.StandardObservationScaler(),
        "reward_scaler": d3rlpy.preprocessing.MultiplyRewardScaler(4.0),
    }


def config(**settings: Any) -> DiscreteIQLConfig:
    encoder = d3rlpy.models.VectorEncoderFactory([8])
    bodies = {f"{of}_encoder_factory": encoder for of in ("actor", "critic", "value")}
    return DiscreteIQLConfig(**{"batch_size": 16, **bodies, **settings})


def fitted(dataset: Any = None, steps: int = STEPS, **settings: Any) -> DiscreteIQL:
    d3rlpy.seed(0)
    algorithm = config(**settings).create()
    algorithm.fit(dataset or mdp_dataset(), n_steps=steps, n_steps_per_epoch=steps, **SILENT)
    return algorithm


STATES = np.random.default_rng(1).normal(size=(30, SIZE)).astype(np.float32)


def answers(algorithm: DiscreteIQL) -> np.ndarray:
    values = [algorithm.predict_value(STATES, np.full(len(STATES), action)) for action in range(ACTIONS)]
    return np.stack([algorithm.predict(STATES), *values])


@pytest.mark.parametrize("dataset", [mdp_dataset, replay_buffer])
@pytest.mark.parametrize("settings", [{}, scaled()], ids=["plain", "scaled"])
def test_it_learns_answers_and_comes_back_from_disk(dataset: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    algorithm = fitted(dataset(), **settings)
    assert algorithm.grad_step == STEPS
    assert algorithm.get_action_type() == d3rlpy.ActionSpace.DISCRETE
    assert algorithm.action_size == ACTIONS
    assert set(algorithm.predict(STATES)) <= set(range(ACTIONS))
    assert set(algorithm.sample_action(np.repeat(STATES, 20, axis=0))) == set(range(ACTIONS))
    before = answers(algorithm)
    assert before.shape == (1 + ACTIONS, len(STATES))

    algorithm.save(str(tmp_path / "whole.d3"))
    whole = d3rlpy.load_learnable(str(tmp_path / "whole.d3"))
    assert isinstance(whole, DiscreteIQL)
    algorithm.save_model(str(tmp_path / "weights.pt"))
    filled = DiscreteIQLConfig.deserialize(algorithm.config.serialize()).create()
    filled.create_impl((SIZE,), ACTIONS)
    filled.load_model(str(tmp_path / "weights.pt"))
    for copy in (whole, filled):
        np.testing.assert_array_equal(answers(copy), before)
    # Optimisers came along: learning goes on as it would have.
    batch = mdp_dataset().sample_transition_batch(16)
    assert filled.update(batch) == algorithm.update(batch)
    np.testing.assert_array_equal(answers(filled), answers(algorithm))


@pytest.mark.filterwarnings("ignore")  # torch would rather have d3rlpy export otherwise
def test_the_greedy_policy_leaves_as_torchscript(tmp_path: Path) -> None:
    algorithm = fitted(**scaled())
    algorithm.save_policy(str(tmp_path / "policy.pt"))
    alone = torch.jit.load(str(tmp_path / "policy.pt"))
    np.testing.assert_array_equal(alone(torch.from_numpy(STATES)).numpy(), algorithm.predict(STATES))


def test_parts_are_copied_from_one_to_another() -> None:
    first, second = fitted(), fitted(steps=1)
    assert first.impl is not None
    assert second.impl is not None
    second.copy_policy_from(first)
    np.testing.assert_array_equal(second.predict(STATES), first.predict(STATES))
    assert (answers(second)[1:] != answers(first)[1:]).any()
    second.copy_q_function_from(first)
    np.testing.assert_array_equal(answers(second), answers(first))
    second.copy_policy_optim_from(first)
    second.copy_q_function_optim_from(first)
    first.reset_optimizer_states()


def test_values_are_of_scaled_rewards_as_those_of_d3rlpys_own_algorithms() -> None:
    """Rewards eight times as large and a scaler of 1/8 is the same learning problem, number for number."""
    data = mdp_dataset()
    large = d3rlpy.dataset.MDPDataset(
        observations=np.concatenate([episode.observations for episode in data.episodes]),
        actions=np.concatenate([episode.actions for episode in data.episodes]),
        rewards=np.concatenate([episode.rewards for episode in data.episodes]) * 8,
        terminals=(np.arange(120) % 20 == 9).astype(np.float32),
        timeouts=(np.arange(120) % 20 == 19).astype(np.float32),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=ACTIONS,
    )
    scaler = d3rlpy.preprocessing.MultiplyRewardScaler(1 / 8)
    plain, divided, ignored = fitted(data), fitted(large, reward_scaler=scaler), fitted(large)
    np.testing.assert_array_equal(answers(divided), answers(plain))
    assert (answers(ignored)[1:] != answers(plain)[1:]).any()
    own = d3rlpy.algos.DoubleDQNConfig(batch_size=16, reward_scaler=scaler).create()
    other = d3rlpy.algos.DoubleDQNConfig(batch_size=16).create()
    for algorithm, dataset in ((own, large), (other, data)):
        d3rlpy.seed(0)
        algorithm.fit(dataset, n_steps=3, n_steps_per_epoch=3, **SILENT)
    np.testing.assert_array_equal(own.predict_value(STATES, np.zeros(30)), other.predict_value(STATES, np.zeros(30)))


def test_observations_are_scaled_in_learning_and_in_answering() -> None:
    data = mdp_dataset()
    scaler = d3rlpy.preprocessing.StandardObservationScaler()
    algorithm = fitted(data, observation_scaler=scaler)
    assert scaler.built
    assert scaler.std[3] > 10 > scaler.std[0]
    assert algorithm.impl is not None
    inside = torch.from_numpy(((STATES - scaler.mean) / (scaler.std + scaler.eps)).astype(np.float32))
    expected = algorithm.impl.predict_value(inside, torch.zeros(len(STATES), dtype=torch.int64)).detach()
    np.testing.assert_allclose(algorithm.predict_value(STATES, np.zeros(len(STATES))), expected, atol=1e-5)


@pytest.mark.parametrize("critics", [1, 2, 5])
def test_there_are_as_many_critics_as_asked_for_and_values_are_their_mean(critics: int) -> None:
    algorithm = fitted(n_critics=critics)
    assert algorithm.impl is not None
    assert len(algorithm.impl.q_function) == len(algorithm.impl.modules.targ_q_funcs) == critics
    with torch.no_grad():
        each = torch.stack([q(torch.from_numpy(STATES)).q_value[:, 1] for q in algorithm.impl.q_function])
    values = algorithm.predict_value(STATES, np.ones(len(STATES)))
    np.testing.assert_allclose(values, each.mean(dim=0).numpy(), atol=1e-6)


def test_every_update_moves_every_network_and_the_slow_copy_by_its_share() -> None:
    algorithm = config(tau=0.25).create()
    algorithm.create_impl((SIZE,), ACTIONS)
    assert algorithm.impl is not None
    modules = algorithm.impl.modules

    def weights(of: str) -> torch.Tensor:
        return torch.cat([values.detach().flatten().clone() for values in getattr(modules, of).parameters()])

    networks = ("policy", "q_funcs", "targ_q_funcs", "value_func")
    before = {name: weights(name) for name in networks}
    losses = algorithm.update(mdp_dataset().sample_transition_batch(16))
    assert set(losses) == {"q_loss", "v_loss", "actor_loss"}
    assert all((weights(name) != before[name]).any() for name in networks)
    expected = 0.75 * before["targ_q_funcs"] + 0.25 * weights("q_funcs")
    torch.testing.assert_close(weights("targ_q_funcs"), expected)


def test_fitted_q_evaluation_takes_it_with_its_scalers() -> None:
    algorithm = fitted(**scaled())
    fqe = d3rlpy.ope.DiscreteFQE(algo=algorithm, config=d3rlpy.ope.FQEConfig(batch_size=16, **scaled()))
    fqe.fit(mdp_dataset(), n_steps=3, n_steps_per_epoch=3, **SILENT)
    assert np.isfinite(fqe.predict_value(STATES, algorithm.predict(STATES))).all()


def test_d3rlpys_wandb_adapter_logs_it_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    algorithm = config().create()
    algorithm.fit(
        mdp_dataset(),
        n_steps=4,
        n_steps_per_epoch=2,
        show_progress=False,
        logger_adapter=d3rlpy.logging.WanDBAdapterFactory(project="radar-rl"),
    )
    assert algorithm.grad_step == 4
    wandb.teardown()  # what it writes with has written
    (run,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert all(name in run.read_bytes() for name in (b"q_loss", b"v_loss", b"actor_loss", b"expectile"))
