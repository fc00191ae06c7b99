"""Rollouts as a Minari data set: every step follows its action, and what was there is never lost."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from radar_rl import cli
from radar_rl.envs import DraftTreeReplayEnv
from radar_rl.envs.to_minari import STORAGE, export_minari
from radar_rl.errors import ConfigError, InputError, RadarError, TraceError
from radar_rl.rollouts import load_rollouts, rollout_settings

minari = pytest.importorskip("minari")

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample"
ID = "radar/sample-v0"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minari's storage with the sample's rollouts in it."""
    folder = tmp_path_factory.mktemp("minari")
    export_minari(SAMPLE / "rollouts", ID, traces=str(SAMPLE / "traces"), out=str(folder))
    return folder


@pytest.fixture
def dataset(storage: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The data set, as Minari itself finds it."""
    monkeypatch.setenv(STORAGE, str(storage))
    return minari.load_dataset(ID)


@pytest.fixture(scope="module")
def env() -> DraftTreeReplayEnv:
    """The environment of the sample's rollouts, made from their settings and not from the data set."""
    made = rollout_settings(SAMPLE / "rollouts")
    return DraftTreeReplayEnv(SAMPLE / "traces", hardware=made["hardware"], reward=made["reward"])


def follows_its_actions(episode: Any, env: gymnasium.Env[Any, Any], text: int) -> bool:
    """Whether the same actions bring the same steps in the environment, entry by entry."""
    steps = len(episode.actions)
    if len(episode.observations) != steps + 1 or {len(values) for values in episode.infos.values()} != {steps + 1}:
        return False
    observation, info = env.reset(options={"text": text})
    same = [np.array_equal(observation, episode.observations[0])]
    for t in range(steps):
        same += [np.allclose(info[name], values[t], rtol=1e-12) for name, values in episode.infos.items()]
        observation, reward, terminated, truncated, info = env.step(int(episode.actions[t]))
        same += [
            np.array_equal(observation, episode.observations[t + 1]),
            reward == episode.rewards[t],
            terminated == episode.terminations[t],
            truncated == episode.truncations[t],
        ]
        if terminated != (t == steps - 1) or not all(same):
            return False
    same += [np.allclose(info[name], values[steps], rtol=1e-12) for name, values in episode.infos.items()]
    return all(same)


def texts(dataset: Any, env: DraftTreeReplayEnv) -> Iterator[tuple[Any, int]]:
    """Episodes, and which of the environment's texts each is of."""
    names = [env.texts.name(i).sequence_id for i in range(len(env.texts))]
    metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    for episode, about in zip(dataset.iterate_episodes(), metadata, strict=True):
        yield episode, names.index(about["sequence_id"])


def test_every_step_follows_its_action(dataset: Any, env: DraftTreeReplayEnv) -> None:
    steps = load_rollouts(SAMPLE / "rollouts")
    assert (dataset.total_episodes, dataset.total_steps) == (steps["episode"].n_unique(), len(steps))
    checked = [follows_its_actions(episode, env, text) for episode, text in texts(dataset, env)]
    assert checked == [True] * dataset.total_episodes


def test_a_shift_by_one_would_be_noticed(dataset: Any, env: DraftTreeReplayEnv) -> None:
    def rolled(name: str) -> Callable[[Any], Any]:
        return lambda episode: replace(episode, **{name: np.roll(getattr(episode, name), 1, axis=0)})

    def info(name: str) -> Callable[[Any], Any]:
        return lambda episode: replace(episode, infos=episode.infos | {name: np.roll(episode.infos[name], 1, axis=0)})

    mutations = {
        **{name: rolled(name) for name in ("observations", "actions", "rewards", "terminations")},
        **{name: info(name) for name in ("accepted", "emitted", "draft_calls", "seconds", "position", "action_mask")},
        "one too few": lambda episode: replace(episode, observations=episode.observations[:-1]),
    }
    deepest = (pair for pair in texts(dataset, env) if 0 in pair[0].infos["action_mask"])
    episode, text = next(deepest)
    assert follows_its_actions(episode, env, text)
    unnoticed = [name for name, shift in mutations.items() if follows_its_actions(shift(episode), env, text)]
    assert unnoticed == []


def test_it_says_where_it_comes_from(dataset: Any) -> None:
    rows = load_rollouts(SAMPLE / "rollouts")
    about = next(iter(dataset.storage.get_episode_metadata([0])))
    first = rows.filter(rows["episode"] == rows["episode"][0])
    for name in ("task", "prompt_id", "sequence_id", "policy"):
        assert about[name] == first[name][0]
    assert about["censored_steps"] == first["censored"].sum()
    made = dataset.storage.metadata["radar_rl"]
    assert {key: made[key] for key in made if key != "code_version"} == rollout_settings(SAMPLE / "rollouts")
    assert made["trace"]["target"].startswith("pocket@")
    assert made["hardware"]["draft_seconds"]
    assert made["reward"]["kind"] == "throughput"
    assert made["code_version"]


def test_the_environment_comes_with_it(dataset: Any, env: DraftTreeReplayEnv) -> None:
    recovered = dataset.recover_environment()
    assert recovered.observation_space == dataset.observation_space == env.observation_space
    assert recovered.action_space == dataset.action_space
    for episode, text in list(texts(dataset, env))[:3]:
        assert follows_its_actions(episode, recovered, text)
    assert gymnasium.spec("Radar/DraftTreeReplay-v0").kwargs == {}


def test_minaris_own_tools_read_it(dataset: Any) -> None:
    assert list(minari.list_local_datasets()) == [ID]
    dataset.set_seed(0)
    assert [len(episode.rewards) > 0 for episode in dataset.sample_episodes(3)] == [True] * 3
    halves = minari.split_dataset(dataset, [30, 41], seed=0)
    assert sum(half.total_steps for half in halves) == dataset.total_steps
    quick = dataset.filter_episodes(lambda episode: episode.rewards.sum() > 0)
    assert 0 < quick.total_episodes < dataset.total_episodes


def test_d3rlpy_can_be_fed_from_it(dataset: Any) -> None:
    from d3rlpy.dataset import MDPDataset

    rows = load_rollouts(SAMPLE / "rollouts")
    episodes = list(dataset)
    fed = MDPDataset(
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        action_size=2,
    )
    assert np.array_equal(np.concatenate([e.observations for e in fed.episodes]), rows["observation"].to_numpy())
    assert np.array_equal(np.concatenate([e.actions for e in fed.episodes])[:, 0], rows["action"].to_numpy())

    # What get_minari makes of T + 1 observations: why the README says not to use it.
    joined = MDPDataset(
        observations=np.concatenate([episode.observations for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        action_size=2,
    )
    right = [np.array_equal(a.observations, b.observations) for a, b in zip(joined.episodes, fed.episodes, strict=True)]
    assert right == [True] + [False] * (len(episodes) - 1)


def test_without_the_trace_there_is_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE, str(tmp_path))
    dataset = export_minari(SAMPLE / "rollouts", "sample-v3")
    assert os.environ[STORAGE] == str(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample-v3"]
    assert dataset.env_spec is None
    assert dataset.observation_space.shape == dataset[0].observations.shape[1:]


def test_the_environment_is_priced_as_the_rollouts_were(tmp_path: Path) -> None:
    rolled, priced = tmp_path / "rollouts", ["hardware=gpu_fast", "reward=linear", "reward.cost=0.25", "max_depth=5"]
    logged = ["env=replay", "policy=threshold:0.3", f"traces={SAMPLE / 'traces'}", "episodes=3", f"out={rolled}"]
    assert cli.main(["rollout", *logged, *priced]) == 0
    dataset = export_minari(rolled, ID, traces=SAMPLE / "traces", out=tmp_path / "minari")
    env = dataset.recover_environment().unwrapped
    assert (env.problem.hardware.name, env.problem.reward.cost) == (rollout_settings(rolled)["hardware"]["name"], 0.25)
    for episode, text in texts(dataset, env):
        assert follows_its_actions(episode, env, text)


def test_live_seconds_are_the_measured_ones(tmp_path: Path) -> None:
    rolled = tmp_path / "rollouts"
    small = ["tasks=[instructions]", "limit=2", "max_new_tokens=8", "hardware=pocket_cpu"]
    assert cli.main(["rollout", "env=live", "policy=static:2", *small, f"out={rolled}"]) == 0
    dataset = export_minari(rolled, ID, out=tmp_path / "minari")
    steps = load_rollouts(rolled)
    measured = steps.select("draft_seconds", "verify_seconds", "decide_seconds").sum().row(0)
    told = sum(float(episode.infos["seconds"].sum()) for episode in dataset.iterate_episodes())
    assert told == pytest.approx(sum(measured))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rollouts": "nowhere"}, TraceError, "no rollouts in nowhere"),
        ({"rollouts": str(SAMPLE / "traces")}, TraceError, "expected rollouts"),
        ({"id": "sample"}, InputError, "-vNUMBER"),
        ({"id": "radar//sample-v0"}, InputError, "-vNUMBER"),
        ({"id": "../sample-v0"}, InputError, "-vNUMBER"),
        ({"id": ""}, InputError, "-vNUMBER"),
        ({"out": "s3://bucket/minari"}, InputError, "folder of this machine"),
        ({"traces": "nowhere"}, TraceError, "no traces in nowhere"),
    ],
)
def test_what_cannot_be_exported_is_named_and_leaves_nothing(
    arguments: dict[str, Any], error: type[RadarError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        export_minari(**{"rollouts": SAMPLE / "rollouts", "id": ID, "out": "minari", **arguments})
    assert not list(tmp_path.rglob("*.hdf5"))


def test_another_trace_than_the_replayed_one_is_refused(tmp_path: Path) -> None:
    from synthetic_trace import make_trace, write_collection

    other = write_collection(tmp_path / "traces", make_trace(prompts=2, new_tokens=12))
    with pytest.raises(TraceError, match="not the trace"):
        export_minari(SAMPLE / "rollouts", ID, traces=str(other), out=str(tmp_path / "minari"))
    copied = tmp_path / "rollouts"
    shutil.copytree(SAMPLE / "rollouts", copied)
    manifest = copied / "manifest-00000-of-00001.json"
    manifest.write_text(manifest.read_text().replace('"env": "replay"', '"env": "live"'))
    with pytest.raises(ConfigError, match="decoded live"):
        export_minari(copied, ID, traces=str(SAMPLE / "traces"), out=str(tmp_path / "minari"))


def test_what_exists_stays(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}
    command = ["minari", f"rollouts={SAMPLE / 'rollouts'}", f"out={storage}"]
    assert cli.main([*command, f"id={ID}"]) == 2
    assert "something of this name" in capsys.readouterr().err
    assert files == {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}


def test_an_interrupted_export_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    from minari.dataset._storages.hdf5_storage import HDF5Storage

    monkeypatch.setattr(HDF5Storage, "update_episode_metadata", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_minari(SAMPLE / "rollouts", ID, out=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert STORAGE not in os.environ


def test_the_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["minari", f"rollouts={SAMPLE / 'rollouts'}", "id=radar/small/sample-v1", f"out={tmp_path}"]) == 0
    assert "71 episodes" in capsys.readouterr().out
    assert (tmp_path / "radar" / "small" / "sample-v1" / "data" / "main_data.hdf5").is_file()


def test_without_minari_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    monkeypatch.delitem(sys.modules, "radar_rl.envs.to_minari")
    assert cli.main(["minari", "rollouts=x", "id=x-v0", f"out={tmp_path}"]) == 2
    assert "pip install 'radar-rl[rl]'" in capsys.readouterr().err
