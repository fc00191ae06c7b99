"""Learning that ran away: what shows it, and the error that says so."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from radar_rl.errors import ConfigError

# Observations are standardised, rewards and values a few tokens: what reaches this has run away, and soon overflows.
ENORMOUS = 1e6
WEIGHTS_GONE = f"weights not finite, or past {ENORMOUS:.0e}"

REMEDY = "lower algo.learning_rate, or check the rewards' size"

Epochs = Iterator[tuple[int, dict[str, float]]]


def diverged(learner: str, epoch: int, broken: str, remedy: str = REMEDY) -> ConfigError:
    """The error that stops a learner whose numbers ran away.

    Args:
        learner: how the message calls it (``algo=cql``).
        epoch: in which it happened, from 1.
        broken: what shows it.
        remedy: what to do.
    """
    return ConfigError(f"{learner} diverged in epoch {epoch}: {broken}; {remedy}")


def check_losses(learner: str, epoch: int, losses: Mapping[str, float], remedy: str = REMEDY) -> None:
    """Refuse losses, or what else a row of a curve has, that are not finite.

    Args:
        learner, epoch, remedy: as ``diverged`` has them.
        losses: by name.

    Raises:
        ConfigError: naming those that are not.
    """
    broken = [key for key, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise diverged(learner, epoch, f"{', '.join(broken)} not finite", remedy)


def watched(epochs: Epochs, algorithm: Any, learner: str, remedy: str = REMEDY) -> Epochs:
    """The epochs of d3rlpy's loop, number and mean losses, up to the one in which losses or weights run away.

    Weights can go with no loss to show it (in an epoch's last update, or where gradients are clipped), or with an
    exception of d3rlpy's own (its distributions refuse logits that are no numbers).

    Args:
        epochs: of ``fitter``.
        algorithm: d3rlpy's, whose weights are looked at.
        learner, remedy: as ``diverged`` has them.

    Raises:
        ConfigError: it has diverged.
    """
    number = 0
    while True:
        number += 1
        try:
            epoch, metrics = next(epochs)
        except StopIteration:
            return
        except Exception as error:
            if _weights_are_sound(algorithm):
                raise
            raise diverged(learner, number, WEIGHTS_GONE, remedy) from error
        losses = {key: value for key, value in metrics.items() if not key.startswith("time_")}
        check_losses(learner, epoch, losses, remedy)
        if not _weights_are_sound(algorithm):
            raise diverged(learner, epoch, WEIGHTS_GONE, remedy)
        yield epoch, losses


def _weights_are_sound(algorithm: Any) -> bool:
    """Whether every weight of every network is finite and not enormous; true before there are any."""
    networks = algorithm.impl.modules.get_torch_modules().values() if algorithm.impl is not None else ()
    # Written so that NaN is not sound.
    return all(bool((weight.abs() < ENORMOUS).all()) for network in networks for weight in network.parameters())
