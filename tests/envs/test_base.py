"""What the environments share, tried on replay, which needs no model; test_conformance.py has the laws of all."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_trace import HARDWARE, MadeTrace, make_trace, with_features, write_collection

from radar_rl.envs import DraftTreeReplayEnv, DraftTreeReplayVectorEnv
from radar_rl.errors import ConfigError, InputError, RadarError, TraceError
from radar_rl.offline.walk import Outcomes
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


@pytest.mark.parametrize("make", [DraftTreeReplayEnv, partial(DraftTreeReplayVectorEnv, 2)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_depth": 1.5}, "max_depth: expected a whole number, got 1.5"),
        ({"max_depth": True}, "max_depth: expected a whole number"),
        ({"max_depth": 0}, "max_depth: expected 1 … 8"),
        ({"max_depth": 9}, "max_depth: expected 1 … 8"),
        ({"tree_size": "60"}, "tree_size: expected a whole number, got '60'"),
        ({"tree_size": 2.5}, "tree_size: expected a whole number"),
        ({"top_k": "a"}, "top_k: expected a whole number"),
        ({"reward": 5}, "reward: expected one of throughput, linear, radar"),
        ({"reward": None}, "reward: expected one of"),
        ({"observation": None}, "observation: expected names among confidences, depth, entropy"),
        ({"observation": [5]}, "observation: expected names among"),
        ({"observation": []}, "valid: confidences, depth"),
        ({"observation": {"max_depth": 8}}, "expected keys"),
        ({"observation": ["hidden"]}, "read without hidden"),
        ({"observation": "entropy"}, "read without entropy"),
        ({"hardware": {"name": "half"}}, "hardware: not a hardware profile"),
        ({"traces": 5}, "traces: expected a Trace or a folder, got int"),
    ],
)
def test_wrong_types_are_named(trace: Trace, make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RadarError, match=message):
        make(**{"traces": trace, "hardware": HARDWARE, **arguments})


def test_one_feature_may_be_named_alone(trace: Trace, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "traces", with_features(trace))  # type: ignore[arg-type]
    for make in (DraftTreeReplayEnv, partial(DraftTreeReplayVectorEnv, 2)):
        assert make(traces=folder, hardware=HARDWARE, observation="entropy").reset(seed=0)[0].shape[-1] == 8


def test_wrong_options_leave_the_draws_alone(trace: Trace) -> None:
    one, other = (DraftTreeReplayEnv(trace, hardware=HARDWARE) for _ in range(2))
    for env in (one, other):
        env.reset(seed=3)
    for options in ({"prompt": 1}, {"text": 99}, 5, []):
        with pytest.raises(InputError, match="options"):
            one.reset(seed=9, options=options)  # type: ignore[arg-type]
    drawn = [[env.reset()[1]["text"] for _ in range(10)] for env in (one, other)]
    assert drawn[0] == drawn[1]


def test_a_widened_first_level_is_paid_for(trace: MadeTrace) -> None:
    """Stopping after call 1 verifies 59 children then, as the walk of the evaluation has it."""
    widened = trace.at(60, widen_first_level=True)
    for traces in (trace, widened):
        env = DraftTreeReplayEnv(traces, hardware=HARDWARE)
        env.reset(seed=0)
        outcomes = Outcomes.of(traces, HARDWARE)
        assert env.step(0)[4]["seconds"] == pytest.approx(outcomes.seconds[0] + HARDWARE.decide_seconds)
    assert outcomes.nodes[0] == 60


def test_a_trace_that_accepts_more_than_was_drafted_is_refused(trace: Trace) -> None:
    trace.accepted[4, 2] = 200
    with pytest.raises(TraceError, match="at most a token a draft call"):
        DraftTreeReplayEnv(trace, hardware=HARDWARE)


def test_a_spec_survives_json(tmp_path: Path, trace: Trace) -> None:
    """What Gymnasium writes of an environment makes it again."""
    folder = write_collection(tmp_path / "traces", with_features(trace))  # type: ignore[arg-type]
    chosen = ObservationSpec(features=("entropy", "hidden", "depth"), floor=-9.0, feature_dim=3)
    arguments: dict[str, Any] = {"hardware": HARDWARE, "reward": Reward("linear"), "observation": chosen}
    env = gymnasium.make("radar_rl.envs:Radar/DraftTreeReplay-v0", traces=str(folder), **arguments)
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(env.reset(seed=1)[0], again.reset(seed=1)[0])
    assert again.unwrapped.problem.spec == chosen  # type: ignore[attr-defined]
    assert again.unwrapped.problem.reward == Reward("linear")  # type: ignore[attr-defined]


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
