"""What the environments share, tried on replay, which needs no model; test_conformance.py has the laws of all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_trace import HARDWARE, make_trace, with_features, write_collection

from radar_rl.envs import DraftTreeReplayEnv
from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.policies import ObservationSpec
from radar_rl.rollouts import Reward, Trace


def play(env: DraftTreeReplayEnv, seed: int, probability: float = 0.7, **options: Any) -> list[dict[str, Any]]:
    """An episode of random choices: of each step its reward, whether it ended the episode, and its info."""
    rng = np.random.default_rng(seed)
    _, info = env.reset(options=options or None)
    steps, terminated = [], False
    while not terminated:
        action = int(rng.random() < probability) if info["action_mask"][1] else 0
        _, reward, terminated, truncated, info = env.step(action)
        assert not truncated
        steps.append({"action": action, "reward": reward, "terminated": terminated, **info})
    return steps


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), probability=st.floats(0, 1), rate=st.floats(1, 1000))
def test_throughput_rewards_add_up(seed: int, probability: float, rate: float) -> None:
    trace = make_trace(prompts=3, new_tokens=20, seed=seed)
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE, reward=Reward("throughput", rate=rate))
    steps = play(env, seed, probability, text=seed % 3)
    emitted, seconds = sum(s["emitted"] for s in steps), sum(s["seconds"] for s in steps)
    text = trace.sequences
    assert emitted == text.length[seed % 3] - text.prompt_length[seed % 3] - 1  # all but the first token
    assert sum(s["reward"] for s in steps) == pytest.approx(emitted - rate * seconds, abs=1e-6)
    assert steps[-1]["tokens_per_second"] == pytest.approx(emitted / seconds)
    assert all("tokens_per_second" not in s for s in steps[:-1])


def test_seconds_are_those_of_the_profile(trace: Trace) -> None:
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE)
    nodes = np.array([11, 60, 60, 60, 60, 60, 60, 60])
    for calls in range(1, 9):
        env.reset(seed=0)
        seconds = [env.step(1)[4]["seconds"] for _ in range(calls - 1)]
        seconds.append(env.step(0)[4]["seconds"])
        decisions = min(calls, 7) * HARDWARE.decide_seconds
        assert sum(seconds) == pytest.approx(HARDWARE.round_seconds(nodes)[calls - 1] + decisions)


def test_no_reward_depends_on_the_future(trace: Trace) -> None:
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE)
    env.reset(options={"text": 0})
    first = env.step(1)[1], env.step(1)[1]
    env.reset(options={"text": 3})
    assert first == (env.step(1)[1], env.step(1)[1])


def test_at_max_depth_both_actions_stop(trace: Trace) -> None:
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE, max_depth=2)
    results = []
    for action in (0, 1):
        _, info = env.reset(options={"text": 1})
        assert info["action_mask"].tolist() == [1, 1]
        info = env.step(1)[4]
        assert info["action_mask"].tolist() == [1, 0]
        observation, reward, terminated, _, info = env.step(action)
        assert info["draft_calls"] == 2
        results.append((observation.tolist(), reward, terminated, info["emitted"]))
    assert results[0] == results[1]


def test_rounds_of_a_text_follow_each_other(trace: Trace) -> None:
    whole = DraftTreeReplayEnv(trace, hardware=HARDWARE, reward="linear")
    steps = play(whole, 1, text=2)
    rounds = DraftTreeReplayEnv(trace, hardware=HARDWARE, reward="linear", episode="round")
    rng, replayed, first = np.random.default_rng(1), [], {"text": 2}
    while sum(s["emitted"] for s in replayed) < sum(s["emitted"] for s in steps):
        _, info = rounds.reset(options=first)
        first = None
        terminated = False
        while not terminated:
            action = int(rng.random() < 0.7) if info["action_mask"][1] else 0
            _, reward, terminated, _, info = rounds.step(action)
            replayed.append({"reward": reward, "terminated": terminated, **info})
    assert [s["reward"] for s in replayed] == [s["reward"] for s in steps]
    assert [s["terminated"] for s in replayed] == [s["draft_calls"] > 0 for s in steps]


def test_texts_are_drawn_by_seed_or_chosen(trace: Trace) -> None:
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE)
    drawn = [env.reset(seed=4)[1]["text"], *(env.reset()[1]["text"] for _ in range(20))]
    again = [env.reset(seed=4)[1]["text"], *(env.reset()[1]["text"] for _ in range(20))]
    assert drawn == again
    assert set(drawn) == set(range(6))
    assert env.reset(options={"text": 5})[1]["text"] == 5
    with pytest.raises(InputError, match="0 … 5"):
        env.reset(options={"text": 6})


def test_texts_without_a_round_are_passed_over() -> None:
    trace = make_trace(prompts=3, new_tokens=20)
    rows = trace.sequence != 1
    short = trace.sequences.length.copy()
    short[1] = trace.sequences.prompt_length[1] + 1
    from dataclasses import replace

    fields = ("sequence", "position", "confidences", "ranks", "censored")
    cut = replace(
        trace,
        sequences=replace(trace.sequences, length=short),
        **{name: getattr(trace, name)[rows] for name in fields},
    )
    env = DraftTreeReplayEnv(cut, hardware=HARDWARE)
    assert env.reset(options={"text": 1})[1]["text"] == 2


def test_wrong_steps_are_named(trace: Trace) -> None:
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE, episode="round")
    with pytest.raises(InputError, match=r"reset\(\)"):
        env.step(0)
    env.reset()
    for action in (2, -1, 0.5, "stop"):
        with pytest.raises(InputError, match=r"0 \(stop\) or 1"):
            env.step(action)  # type: ignore[arg-type]
    env.step(0)
    with pytest.raises(InputError, match="over"):
        env.step(0)


def test_wrong_arguments_are_named(trace: Trace) -> None:
    with pytest.raises(ConfigError, match="throughput, linear, radar"):
        DraftTreeReplayEnv(trace, hardware=HARDWARE, reward="speed")
    with pytest.raises(ConfigError, match="sequence, round"):
        DraftTreeReplayEnv(trace, hardware=HARDWARE, episode="day")
    with pytest.raises(ConfigError, match="valid: confidences, depth, entropy, margin, log_probs, mass, ngram"):
        DraftTreeReplayEnv(trace, hardware=HARDWARE, observation=("confidences", "mood"))
    with pytest.raises(ConfigError, match="valid: ansi, rgb_array"):
        DraftTreeReplayEnv(trace, hardware=HARDWARE, render_mode="human")
    with pytest.raises(ConfigError, match="max_depth 8"):
        DraftTreeReplayEnv(trace, hardware=HARDWARE, observation=ObservationSpec(max_depth=4))
    with pytest.raises(TraceError, match="top_k"):
        DraftTreeReplayEnv(trace, hardware=HARDWARE, top_k=8)
    with pytest.raises(ConfigError, match=r"these texts are of target@0; give a file .* gpu_fast, pocket_cpu"):
        DraftTreeReplayEnv(trace)
    with pytest.raises(ConfigError, match="pocket_cpu"):
        DraftTreeReplayEnv(trace, hardware="abacus")


def test_features_that_the_trace_lacks_are_named(trace: Trace, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "traces", trace)  # type: ignore[arg-type]
    for traces in (trace, folder):
        with pytest.raises(TraceError, match=r"entropy.*features=\[entropy\]"):
            DraftTreeReplayEnv(traces, hardware=HARDWARE, observation=("depth", "entropy"))
    made = with_features(trace)
    DraftTreeReplayEnv(made, hardware=HARDWARE, observation=("depth", "hidden"))
    for projection, message in (({"feature_dim": 4}, "feature_dim"), ({"feature_dim": 3, "feature_seed": 1}, "seed")):
        spec = ObservationSpec(features=("depth", "hidden"), **projection)
        with pytest.raises(TraceError, match=f"{message}: the trace was collected with"):
            DraftTreeReplayEnv(made, hardware=HARDWARE, observation=spec)


def test_features_of_a_folder_are_read(trace: Trace, tmp_path: Path) -> None:
    made = with_features(trace)
    folder = write_collection(tmp_path / "traces", made)  # type: ignore[arg-type]
    names = ("entropy", "hidden", "depth")
    one, two = (DraftTreeReplayEnv(t, hardware=HARDWARE, observation=names) for t in (made, folder))
    assert one.problem.spec == two.problem.spec
    np.testing.assert_array_equal(*(env.reset(options={"text": 2})[0] for env in (one, two)))
    terminated = False
    while not terminated:
        (seen, _, terminated, _, _), (other, *_) = (env.step(np.int64(not terminated)) for env in (one, two))
        np.testing.assert_array_equal(seen, other)
    row = np.flatnonzero(made.sequence == 2)[0]
    assert one.reset(options={"text": 2})[0][0] == np.float32(made.features["entropy"][row, 0])


def test_without_a_render_mode_nothing_is_drawn(trace: Trace) -> None:
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE)
    env.reset()
    with pytest.warns(UserWarning, match="draws nothing"):
        assert env.render() is None


def test_the_default_rate_is_the_targets_own_speed(trace: Trace) -> None:
    assert DraftTreeReplayEnv(trace, hardware=HARDWARE).problem.reward.rate == pytest.approx(1 / 0.0051)
    given = DraftTreeReplayEnv(trace, hardware=HARDWARE, reward={"kind": "throughput", "rate": 7})
    assert given.problem.reward.rate == 7


def test_nan_in_a_trace_is_named(trace: Trace) -> None:
    trace.confidences[:, 1] = np.nan
    env = DraftTreeReplayEnv(trace, hardware=HARDWARE)
    env.reset()
    with pytest.raises(InputError, match="NaN"):
        env.step(1)
