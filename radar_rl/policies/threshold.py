"""Confidence threshold: stop when the draft is no longer sure of its best path.

The rule of transformers' assisted generation (``assistant_confidence_threshold``) and llama.cpp (``--draft-p-min``),
carried over to trees: the quantity is the probability of the newest level's best node, cumulative from the root.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.policies.protocol import MemorylessPolicy, States
from radar_rl.speculative.state import Confidences, FeatureValues


@dataclass
class ConfidenceThreshold(MemorylessPolicy):
    """Continue while the newest level's best cumulative probability is at least ``threshold``."""

    threshold: float = 0.3
    pays_decisions: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"confidence threshold: expected a probability in [0, 1], got {self.threshold}")
        self.name = f"threshold-{self.threshold:g}"

    def continues(self, states: States) -> NDArray[np.bool_]:
        """Whether exp(best cumulative log-probability of level ``depth``) ≥ threshold."""
        best = states.confidences[np.arange(len(states)), states.depth - 1, 0].astype(np.float32)
        return np.asarray(np.exp(best) >= self.threshold)

    def stop_depths(self, confidences: Confidences, features: FeatureValues | None = None) -> NDArray[np.int64]:
        """The first depth at which the best node falls below the threshold, else ``max_depth``; all levels at once."""
        stops = ~(np.exp(confidences[:, :, 0].astype(np.float32)) >= self.threshold)  # [N, max_depth]
        stops[:, -1] = True
        return np.asarray(stops.argmax(axis=1) + 1)
