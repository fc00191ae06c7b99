"""The vector environment: SyncVectorEnv's numbers over the scalar one, bit for bit, as arrays."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from synthetic_trace import HARDWARE, make_trace

from radar_rl.envs import DraftTreeReplayEnv, DraftTreeReplayVectorEnv
from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.policies import ObservationSpec
from radar_rl.rollouts import Trace
from radar_rl.speculative.features import COLUMNS
from radar_rl.speculative.hardware import HardwareProfile

ID = "radar_rl.envs:Radar/DraftTreeReplay-v0"
TREE_SIZE = 20


def without_rounds(trace: Trace, texts: Sequence[int]) -> Trace:
    """The trace where some texts end with their first token."""
    rows = ~np.isin(trace.sequence, texts)
    lengths = trace.sequences.length.copy()
    lengths[list(texts)] = trace.sequences.prompt_length[list(texts)] + 1
    names = ("sequence", "position", "confidences", "ranks", "accepted", "censored")
    kept = {name: getattr(trace, name)[rows] for name in names}
    return replace(trace, sequences=replace(trace.sequences, length=lengths), **kept)


def with_features(trace: Trace) -> Trace:
    """The trace with every feature column, of made-up numbers."""
    rng, made = np.random.default_rng(0), trace.settings
    shape = {"max_depth": made.max_depth, "top_k": made.top_k, "feature_dim": 3}
    columns = {
        name: rng.normal(scale=8, size=(len(trace), *feature.shape(**shape))).astype(feature.dtype)
        for name, feature in COLUMNS.items()
        if name != "ngram"
    }
    columns["ngram"] = rng.integers(0, 6, size=len(trace)).astype(np.uint8)
    return replace(trace, features=columns, settings=replace(made, features=tuple(COLUMNS), feature_dim=3))


def both(trace: Trace, num_envs: int, **settings: Any) -> tuple[SyncVectorEnv, DraftTreeReplayVectorEnv]:
    settings = {"hardware": HARDWARE, **settings}
    scalar = SyncVectorEnv([lambda: DraftTreeReplayEnv(trace, **settings)] * num_envs)
    return scalar, DraftTreeReplayVectorEnv(num_envs, trace, **settings)


def assert_same(expected: Any, given: Any) -> None:
    """Arrays of one type, shape and bits; dictionaries of one order."""
    if isinstance(expected, tuple):
        assert len(expected) == len(given)
        for left, right in zip(expected, given, strict=True):
            assert_same(left, right)
    elif isinstance(expected, dict):
        assert list(expected) == list(given)
        for key in expected:
            assert_same(expected[key], given[key])
    else:
        assert isinstance(given, np.ndarray)
        assert (expected.dtype, expected.shape) == (given.dtype, given.shape)
        assert expected.tobytes() == given.tobytes()


TRACES = {"": lambda trace: trace, "empty texts": lambda trace: without_rounds(trace, [0, 3, 4, 9])}
OBSERVATIONS: dict[str, Any] = {
    "default": ("confidences", "depth"),
    "depth": ("depth",),
    "columns": ("target", "mass", "depth", "hidden", "ngram", "confidences", "entropy", "margin", "log_probs"),
    "history": ("depth", "history", "ngram"),
    "another floor": ObservationSpec(features=("depth", "confidences", "margin"), floor=-3.3),
}


@pytest.mark.parametrize("reward", ["throughput", "linear", "radar"])
@pytest.mark.parametrize("episode", ["sequence", "round"])
@pytest.mark.parametrize("shape", [{}, {"max_depth": 3, "tree_size": TREE_SIZE}, {"max_depth": 1}])
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("texts", TRACES)
def test_every_step_is_that_of_the_scalar_one(
    reward: str, episode: str, shape: dict[str, int], observation: str, texts: str
) -> None:
    made = make_trace(prompts=10, new_tokens=16, seed=5)
    made = with_features(TRACES[texts](made.at(shape.get("tree_size", 60))))
    seen = OBSERVATIONS[observation]
    if isinstance(seen, ObservationSpec):
        seen = replace(seen, max_depth=shape.get("max_depth", 8))
    scalar, native = both(made, 4, reward=reward, episode=episode, observation=seen, **shape)
    rng = np.random.default_rng(7)
    assert native.observation_space == scalar.observation_space
    assert native.action_space == scalar.action_space
    assert_same(scalar.reset(seed=11), native.reset(seed=11))
    ended = 0
    for _ in range(150):
        actions = (rng.random(4) < 0.6).astype(np.int64)
        expected = scalar.step(actions)
        given = native.step(actions)
        assert_same(expected, given)
        assert native.observation_space.contains(given[0])
        ended += int(given[2].sum())
    assert ended > 10


@pytest.mark.parametrize("episode", ["sequence", "round"])
@pytest.mark.parametrize("most", [1, 3, 7])
def test_long_episodes_are_truncated_as_time_limit_does_it(trace: Trace, episode: str, most: int) -> None:
    settings: dict[str, Any] = {"traces": trace, "hardware": HARDWARE, "episode": episode, "max_episode_steps": most}
    scalar, native = (
        gymnasium.make_vec(ID, 4, vectorization_mode=mode, **settings) for mode in ("sync", "vector_entry_point")
    )
    assert isinstance(native, DraftTreeReplayVectorEnv)
    rng, kinds = np.random.default_rng(0), set()
    for arguments in ({"seed": 2}, {}, {"seed": [None, 3, None, 4]}):
        assert_same(scalar.reset(**arguments), native.reset(**arguments))
        for _ in range(80):
            actions = (rng.random(4) < 0.6).astype(np.int64)
            expected, given = scalar.step(actions), native.step(actions)
            assert_same(expected, given)
            kinds |= set(zip(given[2].tolist(), given[3].tolist(), strict=True))
    assert {(False, True)} < kinds or most == 1
    with pytest.raises(InputError, match="max_episode_steps: expected a whole number ≥ 1"):
        gymnasium.make_vec(ID, 4, **settings | {"max_episode_steps": 0})


@pytest.mark.parametrize("episode", ["sequence", "round"])
def test_thousands_of_steps_with_resets_in_between(trace: Trace, episode: str) -> None:
    scalar, native = both(trace, 5, episode=episode)
    rng = np.random.default_rng(3)
    # Anything may follow anything: seeds, none, some, texts named, and none again.
    resets: list[dict[str, Any]] = [
        {"seed": 1},
        {},
        {"seed": [9, 7, 5, 3, 1]},
        {},
        {"options": {"text": 2}},
        {},
        {"seed": [4, None, 4, None, 0]},
        {"seed": 2, "options": {"text": 5}},
        {"options": {}},
        {"options": {"text": None}},
    ]
    for which, arguments in enumerate(resets):
        assert_same(scalar.reset(**arguments), native.reset(**arguments))
        for _ in range(120 + 7 * which):
            actions = (rng.random(5) < 0.7).astype(rng.choice([np.int64, np.int8, np.uint8]))
            assert_same(scalar.step(actions), native.step(actions))
    assert native.np_random_seed == scalar.np_random_seed
    drawn = [[generator.integers(1000) for generator in envs.np_random] for envs in (scalar, native)]
    assert drawn[0] == drawn[1]


def test_without_seeds_texts_are_drawn_all_the_same(trace: Trace) -> None:
    envs = DraftTreeReplayVectorEnv(300, trace, hardware=HARDWARE)
    assert set(envs.reset()[1]["text"]) == set(range(6))
    seeds = envs.np_random_seed
    assert len(set(seeds)) == 300
    again = DraftTreeReplayVectorEnv(300, trace, hardware=HARDWARE)
    first = again.reset(seed=seeds)
    assert first[1]["text"].tolist() != envs.reset()[1]["text"].tolist()  # generators went on
    assert_same(first, again.reset(seed=list(seeds)))


def test_a_sub_environment_does_not_depend_on_the_others(trace: Trace) -> None:
    many = DraftTreeReplayVectorEnv(50, trace, hardware=HARDWARE)
    one = DraftTreeReplayVectorEnv(1, trace, hardware=HARDWARE)
    assert_same(many.reset(seed=100)[0][17:18], one.reset(seed=117)[0])
    rng = np.random.default_rng(0)
    for _ in range(300):
        actions = rng.integers(0, 2, size=50)
        left, right = many.step(actions), one.step(actions[17:18])
        assert_same(tuple(array[17:18] for array in left[:4]), right[:4])
        assert right[4].keys() <= left[4].keys()
        assert_same({key: left[4][key][17:18] for key in right[4]}, right[4])


def test_rewards_of_an_episode_add_up(trace: Trace) -> None:
    envs = DraftTreeReplayVectorEnv(20, trace, hardware=HARDWARE, reward={"kind": "throughput", "rate": 50.0})
    _, infos = envs.reset(seed=0)
    text, rng, checked = infos["text"], np.random.default_rng(1), 0
    total, emitted, seconds = np.zeros(20), np.zeros(20), np.zeros(20)
    for _ in range(200):
        _, rewards, terminations, truncations, infos = envs.step(rng.integers(0, 2, size=20))
        assert not truncations.any()
        total, emitted, seconds = total + rewards, emitted + infos["emitted"], seconds + infos["seconds"]
        for i in np.flatnonzero(terminations):
            completion = trace.sequences.length[text[i]] - trace.sequences.prompt_length[text[i]]
            assert emitted[i] == completion - 1  # all but the first token
            assert total[i] == pytest.approx(emitted[i] - 50 * seconds[i])
            assert infos["tokens_per_second"][i] == pytest.approx(emitted[i] / seconds[i])
            total[i] = emitted[i] = seconds[i] = 0
            checked += 1
        text = infos["text"]
    assert checked > 50


def test_texts_that_take_no_time_are_infinitely_fast(trace: Trace) -> None:
    free = HardwareProfile("free", (0.0,), (11, 60), (0.0, 1.0), decide_seconds=0.0, rest_seconds=0.0)
    scalar, native = both(trace, 2, hardware=free, reward="linear")
    assert_same(scalar.reset(seed=0), native.reset(seed=0))
    fastest = 0.0
    for _ in range(30):
        expected, given = (envs.step(np.zeros(2, dtype=np.int64)) for envs in (scalar, native))
        assert_same(expected, given)
        fastest = max(fastest, given[4].get("tokens_per_second", np.zeros(2)).max())
    assert fastest == np.inf


def test_every_sub_environment_can_take_a_text_of_its_own(trace: Trace) -> None:
    holed = without_rounds(trace, [2])
    envs = DraftTreeReplayVectorEnv(4, holed, hardware=HARDWARE)
    observations, infos = envs.reset(options={"text": np.array([5, 0, 2, 5])})
    assert infos["text"].tolist() == [5, 0, 3, 5]  # text 2 has no round
    scalar = DraftTreeReplayEnv(holed, hardware=HARDWARE)
    for i, text in enumerate([5, 0, 2, 5]):
        assert np.array_equal(scalar.reset(options={"text": text})[0], observations[i])


@pytest.mark.parametrize("episode", ["sequence", "round"])
@pytest.mark.parametrize("observation", ["default", "columns"])
def test_rows_that_ended_can_begin_anew_at_once(trace: Trace, episode: str, observation: str) -> None:
    settings: dict[str, Any] = {"hardware": HARDWARE, "episode": episode, "observation": OBSERVATIONS[observation]}
    made = with_features(without_rounds(trace, [1]))
    scalars = [DraftTreeReplayEnv(made, **settings) for _ in range(6)]
    native = DraftTreeReplayVectorEnv(6, made, **settings)
    seen, rng = native.reset(seed=20)[0], np.random.default_rng(2)
    masks = []
    for i, scalar in enumerate(scalars):
        observation_, info = scalar.reset(seed=20 + i)
        assert np.array_equal(observation_, seen[i])
        masks.append(info["action_mask"])
    for _ in range(300):
        assert native.action_mask.tolist() == [mask.tolist() for mask in masks]
        assert native.action_mask.dtype == np.int8
        actions = rng.integers(0, 2, size=6)
        given, rewards, terminations, _, _ = native.step(actions)
        rows = np.flatnonzero(terminations)[::-1]
        given[rows] = native.reset_rows(rows)
        for i, scalar in enumerate(scalars):
            expected, reward, terminated, _, info = scalar.step(actions[i])
            assert (reward, terminated) == (rewards[i], terminations[i])
            if terminated:
                expected, info = scalar.reset()
            assert np.array_equal(expected, given[i])
            masks[i] = info["action_mask"]


def test_rows_left_alone_begin_at_the_next_step(trace: Trace) -> None:
    scalar, native = both(trace, 6, episode="round")
    assert_same(scalar.reset(seed=1), native.reset(seed=1))
    stop = np.zeros(6, dtype=np.int64)
    scalar.step(stop)
    native.step(stop)
    early = native.reset_rows(np.array([4, 2]))
    expected, given = scalar.step(stop), native.step(stop)
    assert np.array_equal(expected[0][[4, 2]], early)
    others = [0, 1, 3, 5]
    assert_same(tuple(array[others] for array in expected[:4]), tuple(array[others] for array in given[:4]))
    assert given[2].tolist() == [False, False, True, False, True, False]
    assert native.reset_rows(np.array([], dtype=np.int64)).shape == (0, 81)
    for rows in ([0], [2, 2], [2, 6], [-2], [2.0], [[2]]):
        with pytest.raises(InputError, match="rows"):
            native.reset_rows(np.array(rows))
    assert native.reset_rows(np.array([2])).shape == (1, 81)


def test_make_vec_makes_it_and_sync_gives_the_same_numbers() -> None:
    envs = gymnasium.make_vec(ID, num_envs=3, episode="round", reward="radar")
    assert type(envs) is DraftTreeReplayVectorEnv
    assert envs.spec is not None
    assert envs.spec.id == "Radar/DraftTreeReplay-v0"
    again = gymnasium.make_vec(envs.spec)
    sync = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="sync", episode="round", reward="radar")
    assert type(sync) is SyncVectorEnv
    assert (again.num_envs, sync.num_envs) == (3, 3)
    first = sync.reset(seed=5)
    assert_same(first, envs.reset(seed=5))
    assert_same(first, again.reset(seed=5))
    for actions in np.random.default_rng(0).integers(0, 2, size=(200, 3)):
        expected = sync.step(actions)
        assert_same(expected, envs.step(actions))
        assert_same(expected, again.step(actions))


def test_a_trace_in_memory_is_shared(trace: Trace) -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, traces=trace, hardware=HARDWARE)
    assert isinstance(envs, DraftTreeReplayVectorEnv)
    assert envs.texts.trace is trace


def test_gymnasiums_vector_wrappers_take_it(trace: Trace) -> None:
    scalar, native = (wrappers.RecordEpisodeStatistics(envs) for envs in both(trace, 4))
    scalar.reset(seed=0)
    native.reset(seed=0)
    actions, ended = np.random.default_rng(0).integers(0, 2, size=(200, 4)), 0
    for chosen in actions:
        expected, given = scalar.step(chosen)[4], native.step(chosen)[4]
        assert ("episode" in expected) == ("episode" in given)
        if "episode" in given:
            ended += 1
            for key in ("r", "l"):
                assert_same(expected["episode"][key], given["episode"][key])
    assert ended > 10
    lists = [wrappers.DictInfoToList(envs) for envs in both(trace, 4, episode="round")]
    told = [[envs.reset(seed=0)[1], envs.step(np.array([0, 1, 0, 1]))[4]] for envs in lists]
    assert str(told[0]) == str(told[1])
    mean = wrappers.NormalizeReward(wrappers.ClipReward(both(trace, 4)[1], -1.0, 1.0))
    mean.reset(seed=0)
    assert np.isfinite(mean.step(actions[0])[1]).all()


def test_what_is_returned_is_the_callers(trace: Trace) -> None:
    envs, careless = (DraftTreeReplayVectorEnv(8, trace, hardware=HARDWARE, episode="round") for _ in range(2))
    envs.reset(seed=0)
    observations, infos = careless.reset(seed=0)
    rng = np.random.default_rng(0)
    returned: tuple[Any, ...] = (observations, infos)
    for _ in range(100):
        for value in returned:
            for array in value.values() if isinstance(value, dict) else [value]:
                array.fill(1)
        actions = rng.integers(0, 2, size=8)
        expected = envs.step(actions)
        returned = careless.step(actions)
        assert_same(expected, returned)
        arrays = [*returned[:4], *returned[4].values()]
        assert not any(np.shares_memory(left, right) for left, right in combinations(arrays, 2))


def test_without_copies_observations_are_one_array(trace: Trace) -> None:
    envs = DraftTreeReplayVectorEnv(8, trace, hardware=HARDWARE)
    single = DraftTreeReplayVectorEnv(8, trace, hardware=HARDWARE, copy=False)
    first = single.reset(seed=0)[0]
    assert_same(envs.reset(seed=0)[0], first)
    for actions in np.random.default_rng(0).integers(0, 2, size=(50, 8)):
        assert single.step(actions)[0] is first
        assert_same(envs.step(actions)[0], first)


def test_wrong_actions_are_named(trace: Trace) -> None:
    envs = DraftTreeReplayVectorEnv(3, trace, hardware=HARDWARE, episode="round")
    with pytest.raises(InputError, match=r"reset\(\)"):
        envs.step(np.zeros(3, dtype=np.int64))
    with pytest.raises(InputError, match=r"reset\(\)"):
        envs.reset_rows(np.array([0]))
    envs.reset(seed=0)
    before = envs.action_mask
    for wrong in (np.zeros(2, int), np.zeros((3, 1), int), np.zeros(3), np.zeros(3, bool), 0, ["stop"] * 3):
        with pytest.raises(InputError, match=r"expected \[3\] of an integer type, got"):
            envs.step(wrong)  # type: ignore[arg-type]
    for value in (2, -1):
        with pytest.raises(InputError, match=rf"0 \(stop\) or 1 \(continue\), got {value} for sub-environment 1"):
            envs.step(np.array([0, value, 1]))
    assert np.array_equal(envs.action_mask, before)
    envs.step([0, 1, 1])  # type: ignore[arg-type]
    envs.step(np.array([99, 1, 1]))  # the first begins anew and ignores its action


def test_ragged_actions_and_no_rows_are_named(trace: Trace) -> None:
    envs = DraftTreeReplayVectorEnv(2, trace, hardware=HARDWARE)
    envs.reset(seed=0)
    with pytest.raises(InputError, match="of an integer type"):
        envs.step([[0, 1], [0]])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rows: expected"):
        envs.reset_rows(None)  # type: ignore[arg-type]


def test_wrong_resets_are_named(trace: Trace) -> None:
    envs = DraftTreeReplayVectorEnv(3, trace, hardware=HARDWARE)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"seed": [1, 2]}, "seed: expected a number or 3 of them, got 2"),
        ({"options": {"text": 6}}, "0 … 5"),
        ({"options": {"text": np.array([0, 1, 6])}}, "0 … 5"),
        ({"options": {"text": np.array([0, 1])}}, r"a text or \[3\] of an integer type, got \[2\] int64"),
        ({"options": {"text": "first"}}, "of an integer type"),
        ({"options": 5}, "expected a mapping, got 5"),
        ({"seed": 1.5}, "seed: expected a whole number or 3 of them, got 1.5"),
        ({"options": {"prompt": 1}}, "unknown prompt; valid: text"),
        ({"options": {"prompt": 1, "text": np.zeros(3, int)}}, "unknown prompt; valid: text"),
    ]
    for arguments, message in wrong:
        with pytest.raises(InputError, match=message):
            envs.reset(**arguments)
    for seed in (-1, [1, 2, -3], [1, 2, 0.5]):
        with pytest.raises(gymnasium.error.Error, match="Seed must be"):
            envs.reset(seed=seed)  # type: ignore[arg-type]


def test_wrong_arguments_are_named(trace: Trace) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"num_envs": 0}, InputError, "num_envs: expected a whole number ≥ 1, got 0"),
        ({"num_envs": 2.5}, InputError, "num_envs"),
        ({"render_mode": "ansi"}, ConfigError, 'gymnasium.make, or .*vectorization_mode="sync"'),
        ({"reward": "speed"}, ConfigError, "valid: throughput, linear, radar"),
        ({"episode": "day"}, ConfigError, "valid: sequence, round"),
        ({"observation": ["mood"]}, ConfigError, "valid: confidences, depth, entropy"),
        ({"observation": ["depth", "entropy"]}, TraceError, "read without entropy"),
        ({"hardware": "abacus"}, ConfigError, "pocket_cpu"),
        ({"max_depth": 9}, TraceError, "max_depth: expected 1 … 8"),
        ({"tree_size": 20}, TraceError, "tree_size"),
        ({"top_k": 3}, TraceError, "top_k"),
    ]
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            gymnasium.make_vec(ID, traces=trace, **{"num_envs": 2, "hardware": HARDWARE, **arguments})


def test_nan_in_a_trace_is_named(trace: Trace) -> None:
    trace.confidences[:, 1] = np.nan
    envs = DraftTreeReplayVectorEnv(3, trace, hardware=HARDWARE)
    envs.reset()
    envs.step(np.array([0, 0, 0]))
    with pytest.raises(InputError, match="NaN"):
        envs.step(np.array([0, 0, 1]))
    with pytest.raises(InputError, match=r"reset\(\)"):
        envs.step(np.array([0, 0, 0]))
    envs.reset()
    envs.step(np.array([0, 0, 0]))
    columns = with_features(trace)
    columns.features["target"][:] = np.nan
    with pytest.raises(InputError, match="NaN"):
        DraftTreeReplayVectorEnv(3, columns, hardware=HARDWARE, observation=["target"]).reset()
