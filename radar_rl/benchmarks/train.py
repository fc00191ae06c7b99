"""``radar-rl bench train``: updates a second on one thread, from our buffer and from d3rlpy's ``MDPDataset``."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import cycle
from typing import Any

import numpy as np
from rich.table import Table

from radar_rl import __version__
from radar_rl.benchmarks.telling import in_line, tell
from radar_rl.envs.replay import sample_traces
from radar_rl.errors import ConfigError, check_whole
from radar_rl.offline.algorithms import ALGORITHMS, settings_of
from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.behaviour import stopping_at
from radar_rl.offline.buffer import ACTIONS, TransitionBuffer
from radar_rl.offline.data import TraceData, sample_observations
from radar_rl.offline.encoder import encoder_factory
from radar_rl.offline.fit import one_thread
from radar_rl.offline.qlearning import IMITATORS, fit_qlearning, make_algorithm
from radar_rl.offline.ranges import SEED, check_value
from radar_rl.offline.walk import Outcomes
from radar_rl.policies.observation import DEFAULT_NEWEST
from radar_rl.progress import track
from radar_rl.rollouts import load_trace
from radar_rl.rollouts.reward import Reward
from radar_rl.runtime.profiler import named_hardware

FIXED = 8
"""Batches that lie in memory for updates alone; they come round again."""


@dataclass(frozen=True)
class TrainSpeed:
    """Updates per second of one algorithm; medians over repeats.

    Attributes:
        algo: its name.
        alone: with batches that lie in memory.
        buffer: drawing each batch from ``TransitionBuffer``.
        mdp_dataset: drawing each from d3rlpy's ``MDPDataset``.
        share: ``buffer`` / ``alone`` in the same repeat, so that a machine's changing pace falls out.
    """

    algo: str
    alone: float
    buffer: float
    mdp_dataset: float
    share: float


@dataclass(frozen=True)
class TrainSpeeds:
    """The whole measurement.

    Attributes:
        transitions: how many there are to draw from.
        buffer_ms: a batch of ``TransitionBuffer``, milliseconds, median.
        mdp_dataset_ms: a batch of ``MDPDataset``, milliseconds, median.
        algorithms: updates per second.
    """

    transitions: int
    buffer_ms: float
    mdp_dataset_ms: float
    algorithms: list[TrainSpeed]


def walked(outcomes: Outcomes, seed: int) -> TraceData:
    """The decisions of one walk over every text, each round's depth drawn uniformly; in order, so they are episodes."""
    rng = np.random.default_rng(seed)
    depths = rng.integers(1, outcomes.max_depth + 1, size=len(outcomes.trace)).astype(np.int8)
    visited = np.concatenate([rows for rows, _, _ in outcomes.trace.rounds(depths)])
    made = stopping_at(outcomes, depths)
    decisions = made.take(np.flatnonzero(np.isin(made.row, visited)))
    return TraceData.of(outcomes, decisions, Reward(), "sequence", newest=DEFAULT_NEWEST)


def as_episodes(data: TraceData) -> "d3rlpy.dataset.MDPDataset":
    """The transitions as d3rlpy holds them, an episode each text; of one that was cut, d3rlpy drops the last."""
    transitions = data.transitions(data.first_rate)
    every = transitions.take(np.arange(len(transitions)))
    text = data.outcomes.trace.sequence[every.row]
    ends = np.append(text[1:] != text[:-1], True)
    return d3rlpy.dataset.MDPDataset(
        observations=data.source.observe(every.row, every.depth),
        actions=every.action[:, None].astype(np.int64),
        rewards=every.reward[:, None],
        terminals=every.terminal.astype(np.float32),
        timeouts=(ends & ~every.terminal).astype(np.float32),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=ACTIONS,
    )


def measure(
    data: TraceData, algos: list[str], *, batch_size: int, updates: int, repeats: int, seed: int
) -> TrainSpeeds:
    """Draw and update, the ways taking turns.

    Args:
        data: what to draw from, as ``walked`` makes it.
        algos: names of algorithms.
        batch_size: transitions a batch.
        updates: of each way in a repeat.
        repeats: passes that count; one before them warms up.
        seed: of weights and draws.
    """
    transitions = data.transitions(data.first_rate)
    whole = TransitionBuffer(data.source, transitions, seed)
    mdp_dataset = as_episodes(data)
    observations = sample_observations(data, transitions, seed)
    fixed = cycle([whole.sample_transition_batch(batch_size) for _ in range(FIXED)])
    draws: dict[str, Callable[[], Any]] = {
        "alone": lambda: next(fixed),
        "buffer": lambda: whole.sample_transition_batch(batch_size),
        "mdp_dataset": lambda: mdp_dataset.sample_transition_batch(batch_size),
    }
    batch_ms: dict[str, list[float]] = {"buffer": [], "mdp_dataset": []}
    speeds = []
    for algo in algos:
        settings = settings_of({"name": algo})
        encoder = encoder_factory(observations, settings["hidden"])
        d3rlpy.seed(seed)
        algorithm = make_algorithm(settings, encoder, batch_size, (repeats + 1) * updates * len(draws))
        algorithm.create_impl((data.source.size,), ACTIONS)
        buffer = TransitionBuffer(data.source, transitions, seed, bootstraps=algo not in IMITATORS)
        draw_of = draws | {"buffer": partial(buffer.sample_transition_batch, batch_size)}
        rates: dict[str, list[float]] = {way: [] for way in draws}
        for turn in track(range(repeats + 1), repeats + 1, f"bench train: {algo}"):
            for way, draw in draw_of.items():
                seconds = _seconds(_update(algorithm, draw), updates)
                if turn > 0:
                    rates[way].append(updates / seconds)
            for way, found in batch_ms.items():
                seconds = _seconds(draws[way], updates)
                if turn > 0:
                    found.append(1000 * seconds / updates)
        share = statistics.median(np.divide(rates["buffer"], rates["alone"]).tolist())
        speeds.append(TrainSpeed(algo, **{way: statistics.median(found) for way, found in rates.items()}, share=share))
    medians = {f"{way}_ms": statistics.median(found) for way, found in batch_ms.items()}
    return TrainSpeeds(len(transitions), algorithms=speeds, **medians)


def _update(algorithm: Any, draw: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: algorithm.update(draw())


def _seconds(act: Callable[[], Any], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        act()
    return time.perf_counter() - start


def bench_train(
    *,
    out: str | None,
    traces: str | None,
    hardware: str,
    algos: list[str],
    batch_size: int,
    updates: int,
    repeats: int,
    seed: int,
) -> TrainSpeeds:
    """The verb ``bench train``: measure, print the table, write it to ``out`` if it is given.

    Args:
        out: a JSON file to write the figures to; None only prints them.
        traces: the folder of a collected trace; None: the sample that ships.
        hardware: FILE or NAME of a profile, which prices the rewards.
        algos: names of d3rlpy's algorithms.
        batch_size: transitions a batch.
        updates: of each way in a repeat.
        repeats: passes that count, after one that warms up.
        seed: where randomness starts.

    Raises:
        ConfigError: no algorithm, or one that is unknown or does not learn from a buffer.
        InputError, ConfigError: a number is out of range.
        TraceError: there is no trace.
    """
    buffered = [name for name, algorithm in ALGORITHMS.items() if algorithm.learner is fit_qlearning]
    if not algos or not set(algos) <= set(buffered):
        raise ConfigError(f"algos: expected some of {', '.join(buffered)}; got {', '.join(algos) or 'none'}")
    for name, value in {"batch_size": batch_size, "updates": updates, "repeats": repeats}.items():
        check_whole(name, value, 1)
    check_value("seed", seed, SEED)
    trace = load_trace(sample_traces() if traces is None else traces)
    profile = named_hardware(hardware)
    data = walked(Outcomes.of(trace, profile), seed)
    with one_thread():
        speeds = measure(data, algos, batch_size=batch_size, updates=updates, repeats=repeats, seed=seed)
    shown: list[Table | str] = [
        table(speeds, f"{traces or 'sample'}: updates per second, batches of {batch_size:,}, one thread"),
        f"{speeds.transitions:,} transitions of {data.source.size} numbers; a batch takes {speeds.buffer_ms:.2f} ms, "
        f"from MDPDataset {speeds.mdp_dataset_ms:.2f} ms ({speeds.mdp_dataset_ms / speeds.buffer_ms:.0f}×)",
        in_line(machine()),
    ]
    settings = {"traces": traces or "sample", "batch_size": batch_size, "updates": updates, "repeats": repeats}
    tell("bench train", shown, {**machine(), **settings, **asdict(speeds)}, out)
    return speeds


def machine() -> dict[str, str]:
    """What the seconds depend on."""
    libraries = {name: version(name) for name in ("d3rlpy", "torch", "numpy")}
    return {"device": f"cpu ({platform.machine()})", **libraries, "radar-rl": __version__}


def table(speeds: TrainSpeeds, title: str) -> Table:
    """The measurement as a table."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("algo")
    for column in ("updates alone", "our buffer", "of alone", "MDPDataset", "our buffer / MDPDataset"):
        shown.add_column(column, justify="right")
    for speed in speeds.algorithms:
        shown.add_row(
            speed.algo,
            f"{speed.alone:,.0f}",
            f"{speed.buffer:,.0f}",
            f"{speed.share:.0%}",
            f"{speed.mdp_dataset:,.0f}",
            f"{speed.buffer / speed.mdp_dataset:.1f}×",
        )
    return shown
