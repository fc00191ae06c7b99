"""Fitting, whatever the algorithm: how long and from which seed, the curve, and λ that follows the policy."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radar_rl.errors import ConfigError
from radar_rl.offline.behaviour import EveryDecision
from radar_rl.offline.data import TraceData, TrainingData
from radar_rl.offline.divergence import check_losses
from radar_rl.offline.walk import Walk
from radar_rl.policies.protocol import MemorylessPolicy

EPOCHS = 20
CLIP = 1.0
CurveRow = dict[str, float]


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        steps: updates; rounded to whole epochs, ``EPOCHS`` of them.
        batch_size: examples per update.
        seed: of initial weights and draws. The same seed gives the same curve on the same machine.
        follow_rate: after each epoch set λ to the throughput of the policy just trained (Dinkelbach's iteration).
        rate: λ to start from, tokens per second; None takes the data's own.
        on_epoch: called with each row of the curve.

    Raises:
        ConfigError: too few steps, or an empty batch.
    """

    steps: int
    batch_size: int
    seed: int
    follow_rate: bool = False
    rate: float | None = None
    on_epoch: Callable[[CurveRow], None] = lambda row: None

    def __post_init__(self) -> None:
        if self.steps < EPOCHS or self.batch_size < 1:
            raise ConfigError(f"expected steps ≥ {EPOCHS} and batch_size ≥ 1, got {self.steps} and {self.batch_size}")

    @property
    def per_epoch(self) -> int:
        """Updates of an epoch."""
        return self.steps // EPOCHS


@dataclass(frozen=True)
class Fitted:
    """What fitting leaves.

    Attributes:
        policy: the trained policy.
        algorithm: what was trained: a d3rlpy algorithm, or a torch module.
        curve: per epoch: epoch, step, mean losses, λ (``rate``) and the policy's throughput over the training texts.
        rate: the last λ, tokens per second.
        examples: how many transitions, or states, there were to learn from.
    """

    policy: MemorylessPolicy
    algorithm: Any
    curve: list[CurveRow]
    rate: float
    examples: int


class Learner(Protocol):
    """Trains a policy: what stands behind the name of an algorithm."""

    def __call__(self, data: TrainingData, settings: Mapping[str, Any], training: Training) -> Fitted:
        """Train one policy.

        Args:
            data: what to learn from.
            settings: the algorithm, as ``settings_of`` returns it.
            training: how long, and from which seed.

        Raises:
            ConfigError: training diverged (a loss is not finite; names it), or the data do not do.
        """


@dataclass
class Progress:
    """The curve as it grows.

    Args:
        name: of the algorithm.
        data: what is learned from.
        training: how.
        replay: a policy's walk over the training texts, for a learner that makes it anyway; None: the data's.

    Attributes:
        rate: λ now, tokens per second.
        curve: the rows so far.
        policy: as it was after the newest epoch.
    """

    name: str
    data: TrainingData
    training: Training
    replay: Callable[[MemorylessPolicy], Walk] | None = None
    curve: list[CurveRow] = field(default_factory=list)
    policy: MemorylessPolicy = field(init=False)

    def __post_init__(self) -> None:
        self.rate = self.data.first_rate if self.training.rate is None else self.training.rate

    def add(self, epoch: int, metrics: Mapping[str, float], policy: Callable[[], MemorylessPolicy]) -> bool:
        """An epoch has ended; λ follows, if it is to.

        Args:
            epoch: its number, from 1.
            metrics: mean losses.
            policy: gives it as trained so far; asked after the metrics were found finite.

        Returns:
            Whether λ has changed, and with it every reward.

        Raises:
            ConfigError: a metric is not finite.
        """
        row: CurveRow = {"epoch": epoch, "step": epoch * self.training.per_epoch, "rate": self.rate, **metrics}
        check_losses(f"algo={self.name}", epoch, row)
        self.policy = policy()
        run = (self.replay or self.data.replay)(self.policy)
        if run is not None:
            row |= {"tokens_per_second": run.tokens_per_second, "draft_calls": run.draft_calls_per_round}
        self.curve.append(row)
        self.training.on_epoch(row)
        if run is None or not self.training.follow_rate or epoch == EPOCHS:
            return False
        self.rate = run.tokens_per_second
        return True


class Descent:
    """Gradient descent: the gradient's norm is clipped to 1, the learning rate falls along a cosine.

    Args:
        optimiser: of one group of parameters, at the peak learning rate.
        training: how many steps there will be.
        least_rate: what the learning rate falls to.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, training: Training, least_rate: float = 0.0) -> None:
        self._optimiser, self._parameters = optimiser, optimiser.param_groups[0]["params"]
        steps = training.per_epoch * EPOCHS
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, least_rate)

    def step(self, loss: Tensor) -> float:
        """One update; the loss as a number."""
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, CLIP)
        self._optimiser.step()
        self._schedule.step()
        return loss.item()


def every_state(data: TrainingData, name: str) -> tuple[TraceData, NDArray[np.int32]]:
    """A trace's data, and the rows whose states there are to learn from, for what needs no behaviour's actions.

    Raises:
        ConfigError: the data are rollouts, or another behaviour's than ``full``.
    """
    if not isinstance(data, TraceData):
        raise ConfigError(f"algo={name} needs the outcomes of every depth: train it on traces=DIR, not on rollouts")
    if not isinstance(data.decisions, EveryDecision):
        raise ConfigError(f"algo={name} learns from every state and takes nobody's actions: leave behaviour= out")
    return data, data.decisions.rows


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread meanwhile: the networks are too small to share, and threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
