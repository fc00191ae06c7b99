"""Rewards, computed when data is read (DESIGN: traces hold outcomes, never seconds)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radar_rl.errors import ConfigError
from radar_rl.speculative.hardware import HardwareProfile

KINDS = ("throughput", "linear", "radar")


@dataclass(frozen=True)
class Reward:
    """What an action earns.

    ``throughput``: emitted tokens − ``rate`` · seconds. A continue pays its decision and its draft call; the stop pays
    call 1, its decision, verification and the rest of the round, and earns the emitted tokens. Over an episode the
    rewards add up to emitted − rate · seconds.
    ``linear``: emitted tokens at the stop, −``cost`` per continue (call 1 is always made and free).
    ``radar``: ``beta`` · tokens per second of the round at the stop, −``alpha`` per continue (RADAR, arXiv 2512.14069).

    Attributes:
        kind: one of the above.
        rate: λ, tokens per second that a second is worth (``throughput``).
        cost: tokens per draft call after the first (``linear``).
        alpha, beta: RADAR's constants.
    """

    kind: str = "throughput"
    rate: float = 0.0
    cost: float = 0.1
    alpha: float = 0.03
    beta: float = 0.03084

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"unknown reward {self.kind!r}; valid: {', '.join(KINDS)}")
        for name in ("rate", "cost", "alpha", "beta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
                raise ConfigError(f"reward: {name} must be a finite number, got {value!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], rate: float | None) -> "Reward":
        """The reward that plain values describe, as ``configs/reward`` holds them.

        Args:
            values: ``kind`` and parameters; a missing or null ``rate`` takes the next argument.
            rate: λ where the values name none; None if there is no default.

        Raises:
            ConfigError: a key is unknown, or a throughput reward has no rate, or one that is not positive: a second
                would cost nothing, or be paid for.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ConfigError(f"unknown reward keys {unknown}; valid: {', '.join(cls.__dataclass_fields__)}")
        given = {key: value for key, value in values.items() if value is not None}
        if "rate" not in given and given.get("kind", cls.kind) == "throughput":
            if rate is None:
                raise ConfigError(
                    "throughput reward: no rate; the hardware profile has no autoregressive_seconds, "
                    "so give reward.rate=TOKENS_PER_SECOND"
                )
            given["rate"] = rate
        elif given.get("kind", cls.kind) == "throughput" and isinstance(given["rate"], Real) and given["rate"] <= 0:
            raise ConfigError(f"reward.rate: expected a finite number > 0, or null, got {given['rate']!r}")
        return cls(**given)

    def of_continue(self, seconds: ArrayLike) -> NDArray[np.float64]:
        """Reward of continues that took so many seconds, decision and draft call; elementwise."""
        seconds = np.asarray(seconds, dtype=np.float64)
        if self.kind == "throughput":
            return np.asarray(-self.rate * seconds)
        return np.full(seconds.shape, -self.cost if self.kind == "linear" else -self.alpha)

    def of_stop(self, emitted: ArrayLike, seconds: ArrayLike, round_seconds: ArrayLike) -> NDArray[np.float64]:
        """Reward of stops; elementwise.

        Args:
            emitted: tokens that the round emits.
            seconds: of what is paid at the stop: its decision, call 1, verification and the rest of the round.
            round_seconds: of the whole round.
        """
        emitted = np.asarray(emitted, dtype=np.float64)
        if self.kind == "throughput":
            return np.asarray(emitted - self.rate * np.asarray(seconds))
        return emitted if self.kind == "linear" else np.asarray(self.beta * emitted / np.asarray(round_seconds))

    def going(
        self, hardware: HardwareProfile, max_depth: int, paid: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Reward of continuing after call 1 … max_depth − 1: [max_depth − 1] float64; ``paid`` as for ``stopping``."""
        return self.of_continue(hardware.draft(max_depth)[1:] + _decide_seconds(hardware, max_depth, paid)[:-1])

    def stopping(
        self,
        hardware: HardwareProfile,
        nodes: NDArray[np.int64],
        emitted: NDArray[np.integer],
        paid: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Reward of stopping after call 1 … max_depth.

        Args:
            nodes: [max_depth], nodes verified when stopping after call ℓ (``tree_nodes``).
            emitted: [..., max_depth], tokens the round then emits.
            paid: [max_depth], after which calls a decision is paid for; None: after all. At ``max_depth`` nothing is
                decided.

        Returns:
            [..., max_depth] float64.
        """
        max_depth = len(nodes)
        decisions = _decide_seconds(hardware, max_depth, paid)
        seconds = hardware.draft(max_depth)[0] + hardware.verify(nodes) + hardware.rest_seconds + decisions
        return self.of_stop(emitted, seconds, hardware.round_seconds(nodes) + np.cumsum(decisions))


def _decide_seconds(hardware: HardwareProfile, max_depth: int, paid: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Seconds of the decision after call 1 … max_depth: [max_depth]."""
    seconds = np.where(np.ones(max_depth, dtype=np.bool_) if paid is None else paid, hardware.decide_seconds, 0.0)
    seconds[-1] = 0.0  # at max_depth nothing is decided
    return seconds
