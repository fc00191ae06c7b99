"""The adapter is what stable-baselines3 makes of scalar environments, and PPO learns on it."""

from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from synthetic_trace import HARDWARE, make_trace

pytest.importorskip("stable_baselines3")

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor, VecNormalize

from radar_rl.envs import DraftTreeReplayEnv, DraftTreeReplayVectorEnv
from radar_rl.envs.stable_baselines import DraftTreeVecEnv
from radar_rl.errors import ConfigError, InputError
from radar_rl.rollouts import Trace


def adapted(trace: Trace, num_envs: int = 5, **settings: Any) -> DraftTreeVecEnv:
    return DraftTreeVecEnv(DraftTreeReplayVectorEnv(num_envs, trace, hardware=HARDWARE, **settings))


def assert_same_info(expected: dict[str, Any], given: dict[str, Any]) -> None:
    assert set(expected) == set(given)
    for key, value in expected.items():
        assert np.array_equal(value, given[key]), key


@pytest.mark.parametrize(("episode", "most"), [("sequence", None), ("round", None), ("sequence", 7), ("round", 2)])
def test_it_is_their_own_vector_environment_of_scalar_ones(trace: Trace, episode: str, most: int | None) -> None:
    def alone() -> Any:
        env = DraftTreeReplayEnv(trace, hardware=HARDWARE, episode=episode)
        return TimeLimit(env, most) if most else env

    envs = adapted(trace, episode=episode, max_episode_steps=most)
    theirs = DummyVecEnv([alone] * 5)
    assert envs.observation_space == theirs.observation_space
    assert envs.action_space == theirs.action_space
    assert envs.seed(11) == theirs.seed(11)
    assert np.array_equal(envs.reset(), theirs.reset())
    for ours, info in zip(envs.reset_infos, theirs.reset_infos, strict=True):
        assert_same_info(info, ours)
    rng, ended = np.random.default_rng(0), 0
    for _ in range(300):
        masks = np.stack(envs.env_method("action_masks"))
        assert np.array_equal(masks, [[True, env.unwrapped.state.depth < 8] for env in theirs.envs])  # type: ignore[attr-defined]
        actions = rng.integers(2, size=5)
        expected, given = theirs.step(actions), envs.step(actions)
        for left, right in zip(expected[:3], given[:3], strict=True):
            assert left.dtype == right.dtype
            assert np.array_equal(left, right)
        for i in range(5):
            told = {key: values[i] for key, values in envs.infos.items() if key in expected[3][i]}
            assert_same_info({key: expected[3][i][key] for key in told}, told)
            if expected[2][i]:
                assert_same_info(expected[3][i], given[3][i])
                ended += 1
            else:
                assert given[3][i] == {}
    assert ended > 10


def test_it_is_the_vector_environment_stepped_by_hand(trace: Trace) -> None:
    envs, native = adapted(trace), DraftTreeReplayVectorEnv(5, trace, hardware=HARDWARE)
    envs.seed(3)
    observations, _ = native.reset(seed=3)
    assert np.array_equal(envs.reset(), observations)
    rng, over, begun = np.random.default_rng(1), np.zeros(5, dtype=bool), np.zeros(5, dtype=bool)
    for _ in range(60):
        actions = rng.integers(2, size=5)
        shown, rewards, dones, infos = envs.step(actions)
        observations, expected, over, _, _ = native.step(actions)
        assert np.array_equal(dones, over)
        assert np.array_equal(rewards, expected.astype(np.float32))
        for i in np.flatnonzero(over):
            assert np.array_equal(infos[i]["terminal_observation"], observations[i])
        observations[over] = native.reset_rows(np.flatnonzero(over))
        assert np.array_equal(shown, observations)
        begun |= over
        assert [info == {} for info in envs.reset_infos] == begun.tolist()  # nothing is told of episodes in between


def test_what_was_shown_stays(trace: Trace) -> None:
    envs = adapted(trace, episode="round")
    shown = [envs.reset()]
    copies = [shown[0].copy()]
    for _ in range(20):
        observations, _, _, infos = envs.step(np.array([1, 0, 1, 0, 1]))
        assert all("mine" not in info for info in infos)
        infos[0]["mine"] = 1  # as wrappers do
        shown.append(observations)
        copies.append(observations.copy())
    assert np.array_equal(shown, copies)


def test_its_wrappers_work(trace: Trace) -> None:
    envs = VecNormalize(VecMonitor(VecCheckNan(adapted(trace), raise_exception=True)), gamma=1.0)
    envs.seed(0)
    envs.reset()
    rng, episodes = np.random.default_rng(0), []
    for _ in range(200):
        _, _, dones, infos = envs.step(rng.integers(2, size=5))
        for i in np.flatnonzero(dones):
            normal = envs.normalize_obs(envs.unnormalize_obs(infos[i]["terminal_observation"]))
            assert np.allclose(normal, infos[i]["terminal_observation"], atol=1e-4)
            episodes.append((infos[i]["episode"]["r"], infos[i]["episode"]["l"], infos[i]["tokens_per_second"]))
    assert len(episodes) > 5
    assert min(length for _, length, _ in episodes) > 1
    assert np.stack(envs.env_method("action_masks")).shape == (5, 2)
    assert envs.has_attr("action_masks")
    assert envs.env_is_wrapped(Monitor) == [False] * 5


def test_attributes_are_the_vector_environments(trace: Trace) -> None:
    envs = adapted(trace)
    assert envs.render_mode is None
    assert envs.get_attr("problem", [0, 3]) == [envs.envs.problem] * 2
    assert not envs.has_attr("nothing_of_this_name")
    envs.set_attr("note", 7)
    assert envs.get_attr("note", 4) == [7]
    envs.reset()
    assert [method().tolist() for method in envs.get_attr("action_masks", [1])] == [[True, True]]
    assert len(envs.env_method("action_masks", indices=2)) == 1
    with pytest.raises(InputError, match="leave indices out"):
        envs.set_attr("note", 7, indices=1)
    with pytest.raises(AttributeError, match="action_masks"):
        envs.env_method("render")
    envs.close()


def test_options_are_for_all(trace: Trace) -> None:
    envs = adapted(trace)
    envs.set_options({"text": 2})
    envs.reset()
    assert [info["text"] for info in envs.reset_infos] == [2] * 5
    envs.set_options([{"text": i} for i in range(5)])
    envs.reset()
    assert [info["text"] for info in envs.reset_infos] == [0, 1, 2, 3, 4]
    envs.set_options([{"text": 1}, {}, {}, {}, {}])
    with pytest.raises(InputError, match="same ones for every environment"):
        envs.reset()
    envs.set_options({"prompt": 2})
    with pytest.raises(InputError, match="unknown prompt"):
        envs.reset()


def test_wrong_use_is_named(trace: Trace) -> None:
    with pytest.raises(ConfigError, match="copy=True"):
        adapted(trace, copy=False)
    envs = adapted(trace)
    envs.reset()
    with pytest.raises(InputError, match="step_async"):
        envs.step_wait()
    with pytest.raises(InputError, match=r"0 \(stop\) or 1"):
        envs.step(np.full(5, 2))


def test_their_check_of_a_scalar_environment_passes(trace: Trace) -> None:
    check_env(DraftTreeReplayEnv(trace, hardware=HARDWARE), warn=True, skip_render_check=True)


def test_ppo_learns() -> None:
    trace = make_trace(prompts=30, new_tokens=60, seed=2)
    envs = VecNormalize(VecMonitor(adapted(trace, 32)), gamma=1.0)
    model = PPO("MlpPolicy", envs, n_steps=64, batch_size=512, gamma=1.0, learning_rate=1e-3, seed=0, device="cpu")
    fresh = VecMonitor(adapted(trace, 32))

    def mean_return(chosen: Any) -> float:
        fresh.seed(9)
        return float(evaluate_policy(chosen, fresh, n_eval_episodes=200)[0])

    class Greedy:
        def predict(self, observations: Any, **_: Any) -> Any:
            return model.predict(envs.normalize_obs(observations), deterministic=True)

    class Coins:
        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

        def predict(self, observations: Any, **_: Any) -> Any:
            return self.rng.integers(2, size=len(observations)), None

    random = mean_return(Coins())
    model.learn(32 * 64 * 12)
    assert mean_return(Greedy()) > random + 1


def test_a_replay_buffer_takes_it(trace: Trace) -> None:
    envs = adapted(trace)
    model = DQN("MlpPolicy", envs, learning_starts=50, buffer_size=500, batch_size=16, seed=0, device="cpu")
    model.learn(200)
    assert model.replay_buffer is not None
    assert model.replay_buffer.size() == 40  # steps of five texts each
