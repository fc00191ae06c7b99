"""Rewards, computed when data is read (DESIGN: traces hold outcomes, never seconds)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], rate: float | None) -> "Reward":
        """The reward that plain values describe, as ``configs/reward`` holds them.

        Args:
            values: ``kind`` and parameters; a missing or null ``rate`` takes the next argument.
            rate: λ where the values name none; None if there is no default.

        Raises:
            ConfigError: a key is unknown, or a throughput reward has no rate.
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
        return cls(**given)

    def going(self, hardware: HardwareProfile, max_depth: int) -> NDArray[np.float64]:
        """Reward of continuing after call 1 … max_depth − 1: [max_depth − 1] float64."""
        if self.kind == "throughput":
            return -self.rate * (hardware.draft(max_depth)[1:] + hardware.decide_seconds)
        return np.full(max_depth - 1, -self.cost if self.kind == "linear" else -self.alpha)

    def stopping(
        self, hardware: HardwareProfile, nodes: NDArray[np.int64], emitted: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Reward of stopping after call 1 … max_depth.

        Args:
            nodes: [max_depth], nodes verified when stopping after call ℓ (``tree_nodes``).
            emitted: [..., max_depth], tokens the round then emits.

        Returns:
            [..., max_depth] float64.
        """
        max_depth = len(nodes)
        if self.kind == "linear":
            return emitted.astype(np.float64)
        decisions = np.full(max_depth, hardware.decide_seconds)
        if self.kind == "throughput":
            decisions[-1] = 0.0  # at max_depth nothing is decided
            seconds = hardware.draft(max_depth)[0] + hardware.verify(nodes) + hardware.rest_seconds + decisions
            return np.asarray(emitted - self.rate * seconds)
        made = np.minimum(np.arange(1, max_depth + 1), max_depth - 1)
        return np.asarray(self.beta * emitted / (hardware.round_seconds(nodes) + made * hardware.decide_seconds))
