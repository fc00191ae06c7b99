"""Logged rollouts as a Minari data set (https://minari.farama.org), which other offline libraries read.

    dataset = export_minari("runs/rollouts", "radar/sample-v0", traces="runs/traces")
    env = dataset.recover_environment()

An episode has T + 1 observations for T actions, as Minari aligns them: ``observations[t + 1]``, ``rewards[t]`` and
entry ``t + 1`` of every info follow ``actions[t]``. Readers that want as many observations as actions are to be given
``episode.observations[:-1]``. d3rlpy's own ``get_minari`` joins the arrays of all episodes as they are, which pairs the
actions of every episode but the first with observations of other steps: do not use it.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import minari
import numpy as np
import polars as pl
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari import MinariDataset
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.namespace import create_namespace, list_local_namespaces
from numpy.typing import NDArray

import radar_rl.envs  # noqa: F401 (registers the environments)
from radar_rl import __version__
from radar_rl.envs.problem import action_mask, observation_box
from radar_rl.errors import ConfigError, InputError, TraceError
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import STOP
from radar_rl.rollouts.manifest import DataSet
from radar_rl.rollouts.reading import load_rollouts, rollout_settings, trace_settings
from radar_rl.rollouts.storage import Store

STORAGE = "MINARI_DATASETS_PATH"
ID_FORM = "[NAMESPACE/]NAME-vNUMBER of letters, digits, - and _, a namespace of two letters or more"


def export_minari(
    rollouts: str | Path, id: str, *, traces: str | Path | None = None, out: str | Path | None = None
) -> MinariDataset:
    """Turn logged rollouts into a Minari data set.

    Infos are those of the environments: ``accepted``, ``emitted``, ``draft_calls`` and ``seconds`` of the step that led
    to the observation (zeros at the first), ``position`` and ``action_mask`` of the observation itself. An episode's
    metadata are ``task``, ``prompt_id``, ``sequence_id``, ``policy`` and ``censored_steps``, how many of its last steps
    are near an end that length, not eos, made. The data set's hold under ``radar_rl`` all that the rollouts were made
    with: policy, pair, hardware, reward, code version. An author is yours to add:
    ``dataset.storage.update_metadata({"author": {…}})``.

    Args:
        rollouts: the folder that ``radar-rl rollout`` wrote, or its URI.
        id: the data set's id, ``[NAMESPACE/]NAME-vNUMBER``.
        traces: the folder of the trace that was replayed, or its URI; the data set then has its environment
            (``recover_environment()``). It is recorded as an absolute path; ``recover_environment(traces=…)`` takes
            another.
        out: Minari's storage; None takes Minari's own (``MINARI_DATASETS_PATH``, else ``~/.minari/datasets``).

    Returns:
        The data set.

    Raises:
        ConfigError: ``traces`` are given for rollouts that decoded live.
        InputError: Minari takes no such id, the data set exists, ``out`` is a URI, or the rollouts have no transitions.
        TraceError: there are no finished rollouts, or ``traces`` are not what they replayed.
    """
    namespace = _namespace(id)
    traces, out = None if traces is None else str(traces), None if out is None else str(out)
    if out is not None and "://" in out:
        raise InputError(f"out={out}: Minari keeps its data sets in a folder of this machine; copy them from there")
    settings, steps = rollout_settings(rollouts), load_rollouts(rollouts)
    if not len(steps):
        raise InputError(f"{rollouts}: no transitions, every text ended with its first token; roll out others")
    spec = ObservationSpec.from_json(settings["spec"])
    env_spec = None if traces is None else _replay_spec(str(rollouts), settings, traces)
    episodes = [_Episode(rows, settings) for rows in steps.partition_by("episode", maintain_order=True)]
    with _storage(out) as root:
        if (root / id).exists():
            raise InputError(f"id={id}: there is something of this name in {root}; choose another name or version")
        # Made beside its place and moved there when it is whole: what exists under an id is complete.
        with TemporaryDirectory(prefix=".", dir=root) as beside:
            with _storage(beside), warnings.catch_warnings():
                # Author, code and environment are named where they are known; Minari warns of each that is not.
                warnings.filterwarnings("ignore", category=UserWarning, module="minari")
                dataset = minari.create_dataset_from_buffers(
                    dataset_id=id,
                    buffer=[episode.buffer for episode in episodes],
                    env=env_spec,
                    observation_space=observation_box(spec),
                    action_space=spaces.Discrete(2),
                    algorithm_name=settings["policy"],
                    description="Stop decisions in speculative decoding (0 stops drafting and verifies, 1 drafts on).",
                    requirements=[f"radar-rl>={__version__}"],
                )
            dataset.storage.update_episode_metadata([episode.metadata for episode in episodes])
            dataset.storage.update_metadata({"radar_rl": {"code_version": __version__, **settings}})
            if namespace is not None and namespace not in list_local_namespaces():
                create_namespace(namespace)
            (Path(beside) / id).rename(root / id)
        dataset = minari.load_dataset(id)
    held = f"{dataset.total_episodes:,} episodes, {dataset.total_steps:,} transitions"
    print(f"{root / id}: {held}; policy {settings['policy']}")
    return dataset


class _Episode:
    """One text's transitions as Minari wants them.

    Args:
        rows: T of them, in order; columns as ``rollouts_schema`` describes them.
        settings: what they were made with.
    """

    def __init__(self, rows: pl.DataFrame, settings: Mapping[str, Any]) -> None:
        columns = {name: rows[name].to_numpy() for name in rows.columns}
        depth = columns["depth"].astype(np.int64)
        ends_round = columns["action"] == STOP
        # The rest of a round has no column: in a replay it is the profile's, live it was measured with verification.
        rest = settings["hardware"]["rest_seconds"] if settings["env"] == "replay" else 0.0
        seconds = sum(columns[f"{part}_seconds"] for part in ("draft", "verify", "decide")) + rest * ends_round
        self.buffer = EpisodeBuffer(
            observations=_and_last(columns["observation"].astype(np.float32)),
            actions=columns["action"].astype(np.int64),
            rewards=columns["reward"],
            terminations=columns["terminated"],
            truncations=columns["truncated"],
            infos={
                "accepted": _after_none(columns["accepted"]),
                "emitted": _after_none(columns["emitted"]),
                "draft_calls": _after_none(depth * ends_round),
                "seconds": _after_none(seconds),
                "position": _and_last(columns["position"]),
                "action_mask": _and_last(action_mask(depth, settings["max_depth"])),
            },
        )
        named = {name: str(columns[name][0]) for name in ("task", "prompt_id", "sequence_id", "policy")}
        self.metadata = {**named, "censored_steps": int(columns["censored"].sum())}


def _and_last(observed: NDArray[Any]) -> NDArray[Any]:
    """[T, …], observed before each step → [T + 1, …]: after the last, the environments return the last again."""
    return np.concatenate((observed, observed[-1:]))


def _after_none(brought: NDArray[Any]) -> NDArray[Any]:
    """[T], what each step brought → [T + 1], by the observation that it led to; no step led to the first."""
    return np.concatenate((np.zeros(1, brought.dtype), brought))


def _namespace(id: str) -> str | None:
    """The namespace of a data set's id, None if it has none.

    Raises:
        InputError: Minari takes no such id, or cannot find what it is written as.
    """
    try:
        namespace, _, _ = parse_dataset_id(id)
    except (ValueError, TypeError) as error:  # TypeError: its way to say that the version is missing
        raise InputError(f"id: expected {ID_FORM}, got {id!r}") from error
    if "//" in id:
        raise InputError(f"id: expected {ID_FORM}, got {id!r}")
    return None if namespace is None else str(namespace)


def _replay_spec(rollouts: str, settings: Mapping[str, Any], traces: str) -> EnvSpec:
    """The replay environment that the rollouts came from, in values that JSON holds.

    Raises:
        ConfigError: they decoded live.
        TraceError: the trace is another one than they replayed.
    """
    if settings["env"] != "replay":
        raise ConfigError(f"traces={traces}: {rollouts} decoded live and replayed no trace; leave traces out")
    made_of = DataSet.read(traces, "traces").settings
    there = {"trace": asdict(trace_settings(traces)), "works_digest": made_of.get("works_digest")}
    for key, value in json.loads(json.dumps(there)).items():  # as the rollouts' own have been through JSON
        if value != settings[key]:
            raise TraceError(f"traces={traces}: not the trace that {rollouts} replayed ({key} differs)")
    spec = deepcopy(gymnasium.spec("Radar/DraftTreeReplay-v0"))
    shape = {name: settings[name] for name in ("max_depth", "top_k", "tree_size")}
    spec.kwargs = {
        "traces": traces if Store.at(traces).local is None else str(Path(traces).absolute()),
        "hardware": settings["hardware"],
        "reward": settings["reward"],
        "observation": settings["spec"],
        **shape,
    }
    return spec


@contextmanager
def _storage(folder: str | None) -> Iterator[Path]:
    """Minari's storage, in ``folder`` if one is given."""
    before = os.environ.get(STORAGE)
    root = Path(folder or before or Path.home() / ".minari" / "datasets").absolute()
    root.mkdir(parents=True, exist_ok=True)
    os.environ[STORAGE] = str(root)
    try:
        yield root
    finally:
        if before is None:
            del os.environ[STORAGE]
        else:
            os.environ[STORAGE] = before
