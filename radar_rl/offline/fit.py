"""Fitting: d3rlpy's training loop over a priced buffer, λ following the policy where rounds are the episodes."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from radar_rl.errors import ConfigError
from radar_rl.offline.algorithms import learned_policy, make_algorithm
from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.buffer import TransitionBuffer
from radar_rl.offline.data import TrainingData, sample_observations
from radar_rl.offline.encoder import encoder_factory
from radar_rl.policies.learned import LearnedPolicy
from radar_rl.progress import track

EPOCHS = 20
CurveRow = dict[str, float]


@dataclass(frozen=True)
class Fitted:
    """What fitting leaves.

    Attributes:
        policy: the greedy policy of the trained network.
        algorithm: the trained d3rlpy algorithm.
        curve: per epoch: epoch, step, mean losses, λ (``rate``) and the policy's throughput over the training texts.
        rate: the last λ, tokens per second.
        transitions: how many there were to learn from.
    """

    policy: LearnedPolicy
    algorithm: Any
    curve: list[CurveRow]
    rate: float
    transitions: int


def fit_policy(
    data: TrainingData,
    settings: Mapping[str, Any],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    follow_rate: bool,
    rate: float | None = None,
    on_epoch: Callable[[CurveRow], None] = lambda row: None,
) -> Fitted:
    """Train one policy.

    Args:
        data: transitions to learn from.
        settings: the algorithm, as ``settings_of`` returns it.
        steps: updates; rounded to whole epochs, ``EPOCHS`` of them.
        batch_size: transitions per update.
        seed: of initial weights and draws. The same seed gives the same curve on the same machine.
        follow_rate: after each epoch set λ to the throughput of the policy just trained (Dinkelbach's iteration).
        rate: λ to start from; None takes the data's own.
        on_epoch: called with each row of the curve.

    Raises:
        ConfigError: too few steps, or training diverged (a loss is not finite; names it).
    """
    if steps < EPOCHS or batch_size < 1:
        raise ConfigError(f"expected steps ≥ {EPOCHS} and batch_size ≥ 1, got {steps} and {batch_size}")
    d3rlpy.seed(seed)
    rate = data.first_rate if rate is None else rate
    buffer = TransitionBuffer(data.source, data.transitions(rate), seed)
    encoder = encoder_factory(sample_observations(data, buffer.transitions, seed), settings["hidden"])
    per_epoch = steps // EPOCHS
    algorithm = make_algorithm(settings, encoder, batch_size, per_epoch * EPOCHS)
    curve: list[CurveRow] = []
    epochs = algorithm.fitter(
        buffer,
        n_steps=per_epoch * EPOCHS,
        n_steps_per_epoch=per_epoch,
        experiment_name=settings["name"],
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    with one_thread():
        for epoch, metrics in track(epochs, total=EPOCHS, label=f"training {settings['name']}"):
            row: CurveRow = {"epoch": epoch, "step": epoch * per_epoch, "rate": rate}
            row |= {name: value for name, value in metrics.items() if not name.startswith("time_")}
            _check_finite(settings["name"], row)
            policy = learned_policy(algorithm, data.spec, settings["name"])
            run = data.replay(policy)
            if run is not None:
                row |= {"tokens_per_second": run.tokens_per_second, "draft_calls": run.draft_calls_per_round}
                if follow_rate and epoch < EPOCHS:
                    rate = run.tokens_per_second
                    buffer.replace(data.transitions(rate))
            curve.append(row)
            on_epoch(row)
    return Fitted(policy, algorithm, curve, rate, len(buffer.transitions))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread meanwhile: the networks are too small to share, and threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_finite(name: str, row: CurveRow) -> None:
    broken = [key for key, value in row.items() if not math.isfinite(value)]
    if broken:
        raise ConfigError(
            f"algo={name} diverged in epoch {row['epoch']:.0f}: {', '.join(broken)} not finite; "
            "lower algo.learning_rate, or check the rewards' size"
        )
