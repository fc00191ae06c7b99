"""d3rlpy runs on the environments as they are: its evaluator, and its training online."""

import gymnasium
import numpy as np
import pytest
from synthetic_trace import HARDWARE

from radar_rl.offline.backend import d3rlpy
from radar_rl.rollouts import Trace

REPLAY = "radar_rl.envs:Radar/DraftTreeReplay-v0"


def small_cql(env: gymnasium.Env[np.ndarray, np.int64]) -> d3rlpy.algos.DiscreteCQL:
    d3rlpy.seed(3)
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=[16])
    cql = d3rlpy.algos.DiscreteCQLConfig(encoder_factory=encoder, batch_size=16).create()
    cql.build_with_env(env)
    return cql


@pytest.mark.parametrize("episode", ["sequence", "round"])
def test_its_evaluator_gives_the_mean_return(trace: Trace, episode: str) -> None:
    env, again = (gymnasium.make(REPLAY, traces=trace, hardware=HARDWARE, episode=episode) for _ in range(2))
    cql = small_cql(env)
    env.reset(seed=7), again.reset(seed=7)
    returns = []
    for _ in range(12):
        observation, _ = again.reset()
        total, ended = 0.0, False
        while not ended:
            action = int(cql.predict(observation[None])[0])
            observation, reward, terminated, truncated, _ = again.step(action)
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    buffer = d3rlpy.dataset.create_fifo_replay_buffer(8, env=env)
    evaluator = d3rlpy.metrics.EnvironmentEvaluator(env, n_trials=12)
    assert evaluator(cql, buffer) == pytest.approx(np.mean(returns))
    assert len(set(returns)) > 1


def test_it_trains_online(trace: Trace) -> None:
    env = gymnasium.make(REPLAY, traces=trace, hardware=HARDWARE)
    env.reset(seed=0)
    env.action_space.seed(0)
    cql = small_cql(env)
    first = cql.predict_value(np.zeros((1, 81), dtype=np.float32), np.array([1]))
    buffer = d3rlpy.dataset.create_fifo_replay_buffer(1000, env=env)
    explorer = d3rlpy.algos.LinearDecayEpsilonGreedy(start_epsilon=1.0, end_epsilon=0.1, duration=200)
    cql.fit_online(
        env,
        buffer,
        explorer,
        n_steps=300,
        n_steps_per_epoch=100,
        update_start_step=50,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    episodes = buffer.episodes
    assert len(episodes) > 2
    assert all(episode.terminated for episode in episodes[:-1])
    assert buffer.transition_count > 250
    assert cql.predict_value(np.zeros((1, 81), dtype=np.float32), np.array([1])) != first
