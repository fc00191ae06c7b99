"""Marginal gain against marginal cost, nothing trained: the tree's own probability mass against seconds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError, InputError
from radar_rl.policies.levels import LevelRule
from radar_rl.policies.threshold import beam_probability
from radar_rl.speculative.state import Confidences, FeatureValues

SHORTEST = 1e-12  # seconds: verification measured cheaper for a larger tree must not turn the sign


@dataclass
class ExpectedGain(LevelRule):
    """Continue while one more draft call is expected to bring at least ``rate`` accepted tokens per second of it.

    EAGLE-2's head is calibrated (arXiv 2406.16858, §3): a node's cumulative probability is about the probability that
    it is accepted, so the expected number of accepted tokens is the tree's probability mass, and level ℓ's part of it
    is about B_ℓ = Σ_k exp(confidence k of level ℓ), the probability that its beam holds the text. Call ℓ + 1 adds the
    mass of the next level, not seen yet: the share that survived the last call is taken to survive again,

        gain after call ℓ = B_ℓ · min(1, B_ℓ / B_{ℓ−1}),    B_0 = 1.

    It is set against the call's own price: rate × (seconds of call ℓ + 1, of its decision, and of verifying the
    larger tree). The first-order condition of DESIGN's ratio objective, with λ = ``rate``; looking one call ahead, it
    misses calls that pay only together.

    Args:
        rate: accepted tokens per second below which a call is not worth it: the throughput that is reached, less where
            the draft believes less than is accepted (a greedy target's tokens), which tuning finds.
        seconds: [max_depth − 1], of call ℓ + 1 and all that it makes longer.
    """

    rate: float
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        self.seconds = tuple(float(value) for value in self.seconds)
        if not self.rate > 0 or not np.isfinite([self.rate, *self.seconds]).all():
            raise ConfigError(f"gain: expected a rate > 0 and finite seconds, got {self.rate} and {self.seconds}")
        self.name = f"gain-{self.rate:.4g}"

    @property
    def bound(self) -> float:
        """The rate."""
        return self.rate

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """Expected tokens per second of call ℓ + 1: [N, max_depth] float32.

        Raises:
            InputError: more draft calls can be made than seconds are known of.
        """
        max_depth = confidences.shape[1]
        if max_depth > len(self.seconds) + 1:
            raise InputError(
                f"policy {self.name} knows what {len(self.seconds) + 1} draft calls cost, asked about {max_depth}; "
                "tune it on a trace with as many"
            )
        mass = beam_probability(confidences)
        before = np.concatenate((np.ones_like(mass[:, :1]), mass[:, :-1]), axis=1)
        survived = np.divide(mass, before, out=np.zeros_like(mass), where=before > 0)
        price = np.ones(max_depth, dtype=np.float32)  # after the last call nothing is decided
        price[:-1] = np.maximum(self.seconds[: max_depth - 1], SHORTEST)
        return np.asarray(mass * np.minimum(survived, 1) / price)
