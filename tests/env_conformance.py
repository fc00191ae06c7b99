"""What every environment of ours promises, whatever its arguments: any environment can be run through it."""

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from radar_rl.envs import DraftTreeBase
from radar_rl.errors import InputError

INFO = {"action_mask", "accepted", "emitted", "draft_calls", "seconds", "position", "text"}


@dataclass(frozen=True)
class Step:
    """One step as an agent sees it; ``before`` is the info that came with the observation it acted on."""

    observation: np.ndarray
    action: int
    reward: float
    terminated: bool
    before: dict[str, Any]
    info: dict[str, Any]


def play(env: gymnasium.Env[Any, Any], rng: np.random.Generator, probability: float, **reset: Any) -> list[Step]:
    """An episode of random choices."""
    seen, info = env.reset(**reset)
    assert env.observation_space.contains(seen)
    steps: list[Step] = []
    while not steps or not steps[-1].terminated:
        action = int(rng.random() < probability)
        seen, reward, terminated, truncated, new = env.step(action)
        assert env.observation_space.contains(seen)
        assert isinstance(reward, float)
        assert not truncated
        steps.append(Step(seen, action, reward, terminated, info, new))
        info = new
    return steps


def rounds_of(steps: list[Step]) -> list[list[Step]]:
    """The steps of each round."""
    rounds: list[list[Step]] = [[]]
    for step in steps:
        rounds[-1].append(step)
        if step.info["draft_calls"]:
            rounds.append([])
    assert not rounds[-1], "an episode ends with a round"
    return rounds[:-1]


def conforms(make: Callable[[], gymnasium.Env[Any, Any]], episodes: int = 6) -> None:
    """Check everything."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make().unwrapped)
    _steps_add_up(make(), episodes)
    _one_seed_gives_one_run(make(), make())
    _both_actions_stop_at_max_depth(make(), make())
    _wrong_steps_lose_nothing(make())
    _pictures(make)


def _base(env: gymnasium.Env[Any, Any]) -> DraftTreeBase:
    assert isinstance(env.unwrapped, DraftTreeBase)
    return env.unwrapped


def _steps_add_up(env: gymnasium.Env[Any, Any], episodes: int) -> None:
    problem, max_depth = _base(env).problem, _base(env).max_depth
    reward, hardware, measured = problem.reward, problem.hardware, _measured(env)
    rng = np.random.default_rng(0)
    earned: dict[tuple[int, int, int], set[float]] = defaultdict(set)
    for episode in range(episodes):
        steps = play(env, rng, episode / max(1, episodes - 1), seed=episode if episode % 2 else None)
        for step in steps:
            assert set(step.info) - {"tokens_per_second"} == INFO
            assert ("tokens_per_second" in step.info) == step.terminated
            assert step.info["seconds"] > 0
        rounds = rounds_of(steps)
        assert problem.episode == "sequence" or len(rounds) == 1
        for calls in rounds:
            for depth, step in enumerate(calls, start=1):
                going = step.action == 1 and depth < max_depth
                assert step.before["action_mask"].tolist() == [1, int(depth < max_depth)]
                assert step.info["draft_calls"] == (0 if going else depth)
                assert (step is calls[-1]) == (not going)
                assert step.before["position"] == calls[0].before["position"]
                assert (step.info["accepted"], step.info["emitted"]) == (0, 0) or not going
                earned[int(going), depth, step.info["emitted"]].add(step.reward)
            stop = calls[-1].info
            assert stop["emitted"] in (stop["accepted"], stop["accepted"] + 1)
            assert 1 <= stop["emitted"] <= stop["draft_calls"] + 1
            if not calls[-1].terminated:
                assert stop["position"] == calls[0].before["position"] + stop["emitted"]
        emitted = sum(step.info["emitted"] for step in steps)
        seconds = sum(step.info["seconds"] for step in steps)
        total = sum(step.reward for step in steps)
        continues = len(steps) - len(rounds)
        assert steps[-1].info["tokens_per_second"] == pytest.approx(emitted / seconds)
        if reward.kind == "throughput":
            assert total == pytest.approx(emitted - reward.rate * seconds, abs=1e-6)
        elif reward.kind == "linear":
            assert total == pytest.approx(emitted - reward.cost * continues, abs=1e-6)
        else:
            times = [sum(step.info["seconds"] for step in calls) for calls in rounds]
            tokens = [calls[-1].info["emitted"] for calls in rounds]
            speeds = sum(n / time for n, time in zip(tokens, times, strict=True))
            assert total == pytest.approx(reward.beta * speeds - reward.alpha * continues, abs=1e-6)
        if not measured:  # a profile's seconds are those of the parts of a round
            nodes = problem.payments.verify_seconds
            for calls in rounds:
                made = len(calls)
                parts = hardware.draft(max_depth)[:made].sum() + nodes[made - 1] + hardware.rest_seconds
                parts += min(made, max_depth - 1) * hardware.decide_seconds
                assert sum(step.info["seconds"] for step in calls) == pytest.approx(parts)
    if not measured:  # a reward depends on what was done and what came of it, and on nothing to come
        assert all(len(values) == 1 for values in earned.values())


def _one_seed_gives_one_run(env: gymnasium.Env[Any, Any], other: gymnasium.Env[Any, Any]) -> None:
    one, two = (play(e, np.random.default_rng(7), 0.6, seed=3) for e in (env, other))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)
        varying = {"seconds", "tokens_per_second"} if _measured(env) else set()
        for key in set(a.info) - varying:
            np.testing.assert_array_equal(a.info[key], b.info[key])
        assert a.reward == b.reward or _measured(env)


def _both_actions_stop_at_max_depth(env: gymnasium.Env[Any, Any], other: gymnasium.Env[Any, Any]) -> None:
    results = []
    for action, e in enumerate((env, other)):
        _, info = e.reset(seed=1)
        while info["action_mask"][1]:
            info = e.step(1)[4]
        seen, reward, terminated, _, info = e.step(action)
        assert info["draft_calls"] == _base(e).max_depth
        results.append((seen.tolist(), None if _measured(e) else reward, terminated, info["emitted"]))
    assert results[0] == results[1]


def _wrong_steps_lose_nothing(env: gymnasium.Env[Any, Any]) -> None:
    inner = _base(env)
    with pytest.raises(InputError, match=r"reset\(\)"):
        inner.step(0)
    with pytest.raises(InputError, match="valid: text"):
        inner.reset(options={"prompt": 0})
    count = len(inner.texts)
    for text in (count, -1, 0.5, "first"):
        with pytest.raises(InputError, match=f"0 … {count - 1}"):
            inner.reset(options={"text": text})
    _, info = inner.reset(seed=0, options={"text": count - 1})
    for action in (2, -1, 0.5, "stop", None):
        with pytest.raises(InputError, match=r"0 \(stop\) or 1"):
            inner.step(action)  # type: ignore[arg-type]
    position, terminated = info["position"], False
    while not terminated:
        _, _, terminated, _, info = inner.step(0)
        assert info["position"] >= position
    with pytest.raises(InputError, match="over"):
        inner.step(0)


def _pictures(make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
    spec = make().spec
    assert spec is not None
    for mode in ("ansi", "rgb_array"):
        env = gymnasium.make(spec, render_mode=mode)
        with pytest.raises(InputError, match=r"reset\(\)"):
            _base(env).render()
        env.reset(seed=0)
        shown: list[Any] = [env.render()]
        earned, terminated, calls = 0.0, False, 1
        actions = (*[1] * _base(env).max_depth, 0, 1, 1) if mode == "ansi" else (1, 0, 1)
        for action in actions:
            if terminated:
                break
            _, reward, terminated, _, info = env.step(action)
            shown.append(env.render())
            earned += reward
            calls = 1 if info["draft_calls"] else calls + 1
            if mode == "ansi":
                assert f"= {earned:+.2f} " in shown[-1]
                assert (f"draft call {calls} of" in shown[-1]) == (not info["draft_calls"])
                assert (f"accepted {info['accepted']}, emitted" in shown[-1]) == bool(info["draft_calls"])
        if mode == "ansi":
            assert all(isinstance(text, str) and len(text.splitlines()) > 2 for text in shown)
            assert len(set(shown)) == len(shown)
        else:
            assert {image.dtype for image in shown} == {np.dtype(np.uint8)}
            assert len({image.shape for image in shown}) == 1
            assert all((a != b).any() for a, b in pairwise(shown))


def _measured(env: gymnasium.Env[Any, Any]) -> bool:
    assert env.spec is not None
    return env.spec.nondeterministic
