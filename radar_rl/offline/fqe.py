"""Fitted Q evaluation (Le, Voloshin & Yue 2019, arXiv 1903.08738): what logged decisions say a policy is worth.

d3rlpy's ``DiscreteFQE``, unchanged, for any policy without memory. It asks the evaluated algorithm what to do next and
shows it an observation; a rule, though, may look at what the observation does not hold. So the evaluated policy is
asked about every state beforehand, and its choice travels as the last number of the observation.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from radar_rl.offline.backend import d3rlpy
from radar_rl.offline.buffer import ObservationSource, TransitionBuffer
from radar_rl.offline.coverage import FITTED_Q
from radar_rl.offline.divergence import ENORMOUS, diverged, watched
from radar_rl.offline.encoder import encoder_factory
from radar_rl.offline.fit import EPOCHS, one_thread
from radar_rl.offline.qlearning import GAMMA, REWARD_SCALE
from radar_rl.offline.ranges import COUNT, LISTS, RANGES, SEED, at_least, check_value
from radar_rl.offline.transitions import TransitionSource
from radar_rl.progress import track

# Observations whose statistics standardise the network's input.
SAMPLED = 20_000

# States whose values are asked for at once.
AT_ONCE = 50_000

REMEDY = "lower fqe.learning_rate, or raise fqe.target_update_interval"

FQE_RANGES = {
    "steps": at_least(EPOCHS),
    "batch_size": COUNT,
    **{name: RANGES[name] for name in ("learning_rate", "hidden", "target_update_interval", "n_critics")},
    "seed": SEED,
}


@dataclass(frozen=True)
class FQESettings:
    """How to fit.

    Attributes:
        steps: updates; rounded to whole epochs, ``EPOCHS`` of them.
        batch_size: transitions per update.
        learning_rate: at first; it falls to zero along a cosine.
        hidden: width of each hidden layer.
        target_update_interval: updates between copies of the network that later states are valued with. With γ = 1 an
            episode's value travels back one transition a copy, so long episodes need many.
        n_critics: networks whose mean is the estimate.
        seed: of weights and draws.

    Raises:
        ConfigError: a number is out of range.
    """

    steps: int = 4000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (64, 64)
    target_update_interval: int = 20
    n_critics: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in FQE_RANGES.items():
            check_value(f"fqe.{name}", getattr(self, name), allowed, listed=name in LISTS)
        object.__setattr__(self, "hidden", tuple(self.hidden))


def depths_of(table: NDArray[np.bool_]) -> NDArray[np.int8]:
    """The depth at which rounds stop, of choices [N, L − 1]: [N] int8 in 1 … L."""
    last = table.shape[1] + 1
    return np.asarray(np.where(table.all(axis=1), last, table.argmin(axis=1) + 1), dtype=np.int8)


@dataclass(frozen=True)
class ChoiceShown:
    """Observations and, as their last number, what the evaluated policy does: 0 stop, 1 continue.

    Attributes:
        source: where the observations come from.
        table: [N, L − 1] bool, of ``choices``.
    """

    source: ObservationSource
    table: NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Numbers in an observation, the choice included."""
        return self.source.size + 1

    def observe(self, rows: NDArray[np.integer], depths: NDArray[np.integer]) -> NDArray[np.float32]:
        """Observations of states: [B], [B] → [B, size] float32."""
        seen = np.empty((len(rows), self.size), dtype=np.float32)
        seen[:, :-1] = self.source.observe(rows, depths)
        seen[:, -1] = self.table[rows, depths - 1]
        return seen


class _Evaluated:
    """All that ``DiscreteFQE`` asks of the algorithm that it evaluates: the action in the states that follow."""

    @property
    def impl(self) -> "_Evaluated":
        return self

    def predict_best_action(self, x: Tensor) -> Tensor:
        """[B, size] → [B] int64."""
        return x[:, -1].long()


@dataclass(frozen=True)
class FittedValue:
    """The value function that fitted Q evaluation ends with.

    Attributes:
        name: of the policy, for messages.
        algorithm: d3rlpy's ``DiscreteFQE``, fitted.
        loss: mean of the last epoch.
    """

    name: str
    algorithm: Any
    loss: float

    def at_first_call(self, seen: ChoiceShown, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Values of the states after call 1 of the rounds that start at some rows: [S] → [S] float64, tokens.

        Raises:
            ConfigError: one is not finite, or enormous: no text is worth so many tokens.
        """
        values = np.empty(len(rows))
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            states = seen.observe(some, np.ones(len(some), dtype=np.int64))
            # d3rlpy scales rewards when it learns, and leaves values as they were learned.
            values[start : start + AT_ONCE] = self.algorithm.predict_value(states, states[:, -1]) / REWARD_SCALE
        if not (np.abs(values) < ENORMOUS).all():  # written so that NaN is refused, too
            raise diverged(f"{FITTED_Q} of {self.name}", EPOCHS, f"values past {ENORMOUS:.0e} tokens", REMEDY)
        return values


def fit_value(name: str, seen: ChoiceShown, transitions: TransitionSource, settings: FQESettings) -> FittedValue:
    """Fit the value of a policy to transitions that another one may have made.

    Args:
        name: of the policy, for messages.
        seen: observations with the policy's choices.
        transitions: decisions and what they earned.
        settings: how.

    Raises:
        ConfigError: it diverged: the loss is not finite, or weights ran away.
    """
    d3rlpy.seed(settings.seed)
    buffer = TransitionBuffer(seen, transitions, settings.seed)
    schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=settings.steps)
    config = d3rlpy.ope.FQEConfig(
        learning_rate=settings.learning_rate,
        optim_factory=d3rlpy.optimizers.AdamFactory(clip_grad_norm=1.0, lr_scheduler_factory=schedule),
        encoder_factory=encoder_factory(_sampled(seen, transitions, settings.seed), list(settings.hidden)),
        batch_size=settings.batch_size,
        gamma=GAMMA,
        n_critics=settings.n_critics,
        target_update_interval=settings.target_update_interval,
        reward_scaler=d3rlpy.preprocessing.MultiplyRewardScaler(REWARD_SCALE),
    )
    algorithm = d3rlpy.ope.DiscreteFQE(algo=_Evaluated(), config=config)
    per_epoch = settings.steps // EPOCHS
    epochs = algorithm.fitter(
        buffer,
        n_steps=per_epoch * EPOCHS,
        n_steps_per_epoch=per_epoch,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    sound = watched(epochs, algorithm, f"{FITTED_Q} of {name}", REMEDY)
    loss = math.nan
    with one_thread():
        for _, losses in track(sound, total=EPOCHS, label=f"evaluating {name}"):
            loss = losses["loss"]
    return FittedValue(name, algorithm, loss)


def _sampled(seen: ChoiceShown, transitions: TransitionSource, seed: int) -> NDArray[np.float32]:
    """Observations of some of the states: [up to SAMPLED, size]."""
    count = min(SAMPLED, len(transitions))
    drawn = transitions.take(np.random.default_rng(seed).integers(len(transitions), size=count))
    return seen.observe(drawn.row, drawn.depth)
