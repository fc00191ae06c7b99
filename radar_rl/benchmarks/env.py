"""``radar-rl bench env``: decisions per second of the vector environment on one core, beside ``SyncVectorEnv``."""

import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from rich.table import Table

from radar_rl import __version__
from radar_rl.benchmarks.telling import in_line, tell
from radar_rl.envs import DraftTreeBase, DraftTreeReplayVectorEnv
from radar_rl.errors import ConfigError, InputError, check_whole
from radar_rl.progress import track

DRAWN_STEPS = 64
"""Steps whose actions are drawn beforehand; they come round again."""


@dataclass(frozen=True)
class EnvSpeed:
    """Decisions per second, steps that only begin an episode left out; medians over repeats.

    Attributes:
        num_envs: N, sub-environments.
        native: of ``DraftTreeReplayVectorEnv``.
        sync: of ``SyncVectorEnv`` over N scalar environments.
    """

    num_envs: int
    native: float
    sync: float

    @property
    def times(self) -> float:
        """How many times as fast the native one is."""
        return self.native / self.sync


class Stepper:
    """A vector environment that goes on stepping, measurement after measurement.

    Args:
        envs: the environment; reset here.
        actions: [steps, N] int64, taken in turn.
        seed: of the reset.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], actions: NDArray[np.int64], seed: int) -> None:
        self._envs = envs
        self._actions: Iterator[NDArray[np.int64]] = cycle(actions)
        self._over = 0  # sub-environments that begin an episode at the next step
        envs.reset(seed=seed)

    def decisions_per_second(self, seconds: float) -> float:
        """Step for so long and count."""
        ended: list[NDArray[np.bool_]] = []
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            ended.append(self._envs.step(next(self._actions))[2])
        over = [self._over, *(int(terminations.sum()) for terminations in ended)]
        self._over = over.pop()
        return (len(ended) * self._envs.num_envs - sum(over)) / spent


def measure(
    traces: str | None,
    num_envs: list[int],
    *,
    episode: str,
    observation: list[str],
    continue_probability: float,
    seconds: float,
    repeats: int,
    seed: int,
) -> list[EnvSpeed]:
    """Step both environments through the same texts with actions drawn beforehand, taking turns.

    Args:
        traces: folder of a trace, None for the sample.
        num_envs: numbers of sub-environments.
        episode, observation: as the environments have them.
        continue_probability: share of the actions that continue.
        seconds: of each environment in a repeat.
        repeats: passes that count; one before them warms up.
        seed: of texts and actions.
    """
    # What a step pays makes no difference to how long it takes.
    first = DraftTreeReplayVectorEnv(
        1, traces, hardware="pocket_cpu", reward="linear", episode=episode, observation=observation
    )
    texts, problem = first.texts, first.problem

    def scalar() -> DraftTreeBase:
        # DraftTreeReplayEnv is this with texts of its own: thousands would hold as many indices of a large trace.
        return DraftTreeBase(
            texts,
            problem.spec,
            hardware=problem.hardware,
            reward=problem.reward,
            episode=episode,
            render_mode=None,
        )

    speeds = []
    for count in num_envs:
        rng = np.random.default_rng(seed)
        actions = (rng.random((DRAWN_STEPS, count)) < continue_probability).astype(np.int64)
        native = DraftTreeReplayVectorEnv(
            count,
            texts.trace,
            hardware=problem.hardware,
            reward=problem.reward,
            episode=episode,
            observation=problem.spec,
        )
        steppers = [Stepper(envs, actions, seed) for envs in (native, SyncVectorEnv([scalar] * count))]
        passes = [
            [stepper.decisions_per_second(seconds) for stepper in steppers]
            for _ in track(range(repeats + 1), repeats + 1, f"bench env: {count}")
        ]
        speeds.append(EnvSpeed(count, *(statistics.median(found) for found in zip(*passes[1:], strict=True))))
    return speeds


def bench_env(
    *,
    out: str | None,
    traces: str | None,
    num_envs: list[int],
    episode: str,
    observation: list[str],
    continue_probability: float,
    seconds: float,
    repeats: int,
    seed: int,
) -> list[EnvSpeed]:
    """The verb ``bench env``: measure, print the table, write it to ``out`` if it is given.

    Raises:
        ConfigError: no ``num_envs``, or an unknown episode or feature.
        InputError: a number out of range.
        TraceError: the trace is damaged, or was collected without a feature.
    """
    if not num_envs:
        raise ConfigError("num_envs: expected at least one number of sub-environments")
    for count in num_envs:
        check_whole("num_envs", count, 1)
    check_whole("repeats", repeats, 1)
    check_whole("seed", seed, 0)
    if not 0 <= continue_probability <= 1:
        raise InputError(f"continue_probability: expected a number in 0 … 1, got {continue_probability}")
    if not 0 < seconds < float("inf"):
        raise InputError(f"seconds: expected a number > 0, got {seconds}")
    about = {"traces": traces or "sample", "episode": episode, "observation": observation}
    speeds = measure(
        traces,
        num_envs,
        episode=episode,
        observation=observation,
        continue_probability=continue_probability,
        seconds=seconds,
        repeats=repeats,
        seed=seed,
    )
    shown: list[Table | str] = [
        table(speeds, f"{about['traces']}: decisions per second on one core"),
        in_line(machine()),
    ]
    measured = [{**asdict(speed), "times": speed.times} for speed in speeds]
    settings = {**about, "continue_probability": continue_probability, "seconds": seconds, "repeats": repeats}
    tell("bench env", shown, {**machine(), **settings, "speeds": measured}, out)
    return speeds


def machine() -> dict[str, str]:
    """What the seconds depend on."""
    return {
        "device": f"cpu ({platform.machine()})",
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
        "radar-rl": __version__,
    }


def table(speeds: list[EnvSpeed], title: str) -> Table:
    """The measurement as a table."""
    shown = Table(title=title, title_justify="left")
    for column in ("sub-environments", "native", "ns a decision", "SyncVectorEnv", "native / SyncVectorEnv"):
        shown.add_column(column, justify="right")
    for speed in speeds:
        shown.add_row(
            f"{speed.num_envs:,}",
            f"{speed.native:,.0f}",
            f"{1e9 / speed.native:,.0f}",
            f"{speed.sync:,.0f}",
            f"{speed.times:.1f}×",
        )
    return shown
