"""Confidence thresholds: stop when the draft is no longer sure enough of what it has drafted.

Three quantities are in use. The best path's: the cumulative probability of the newest level's best node. The beam's:
the sum over the newest beam, the probability that it holds the text (Dynamic Depth Decoding). The token's: the
probability of the newest level's best node given its parent (transformers, llama.cpp).
"""

from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.policies.at_once import HALF, SINGLE
from radar_rl.policies.levels import LevelRule
from radar_rl.policies.protocol import CONTINUE, STOP
from radar_rl.speculative.state import Confidences, DraftState, FeatureValues

PER_NAT = 1.01 * HALF
"""Relative error at most of a probability above ``LEAST``, for each nat that its logarithm, rounded, is below 0."""
LEAST = 1e-15


@dataclass
class ProbabilityThreshold(LevelRule):
    """A threshold that is a probability."""

    threshold: float = 0.3

    kind = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"{self.kind}: expected a probability in [0, 1], got {self.threshold}")
        self.name = self.called(f"{self.kind}-{self.threshold:g}")

    @property
    def bound(self) -> float:
        """The threshold."""
        return self.threshold

    def summed(self, top_k: int) -> int:
        """How many of the newest beam's best nodes the probability is the sum of; 0: it is none."""
        return 0

    def act(self, state: DraftState) -> int:
        """STOP or CONTINUE for one state: from the beam as it lies there, if that is enough (see ``at_once``)."""
        beams = state.beams
        if beams is None or beams.numbers is None or state.depth < self.asks_from:
            return super().act(state)
        top_k = beams.shape[1]
        first, count = (state.depth - 1) * top_k, self.summed(top_k)
        if not count or self.threshold < LEAST:
            return super().act(state)
        probability = nats = 0.0
        for number in beams.numbers[first : first + count]:
            likely = exp(number)
            probability += likely
            nats -= likely * number
        away = probability - self.threshold
        error = PER_NAT * nats + top_k * SINGLE * (probability + self.threshold)
        if not abs(away) > error:
            return super().act(state)
        return CONTINUE if away > 0.0 else STOP


@dataclass
class ConfidenceThreshold(ProbabilityThreshold):
    """Continue while the newest level's best cumulative probability is at least ``threshold``.

    The rule of transformers and llama.cpp (``MinProbability``) carried over to trees: a path is worth going on with
    as long as all of it is likely.
    """

    kind = "threshold"

    def summed(self, top_k: int) -> int:
        """The best one."""
        return 1

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """exp(best cumulative log-probability): [N, max_depth] float32."""
        return np.asarray(np.exp(confidences[:, :, 0].astype(np.float32)))


@dataclass
class JointConfidence(ProbabilityThreshold):
    """Continue while the newest beam's probabilities add up to at least ``threshold``.

    Dynamic Depth Decoding (arXiv 2409.00142): H = log Σ exp(cumulative log-probabilities of the beam) against a
    threshold, here exp(H), the probability by the draft's own belief that the beam holds the text. DDD looks at chosen
    depths only, to save the look; here it is every depth.
    """

    kind = "joint"

    def summed(self, top_k: int) -> int:
        """All."""
        return top_k

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """The beam's probability: [N, max_depth] float32."""
        return beam_probability(confidences)


@dataclass
class MinProbability(ProbabilityThreshold):
    """Continue while the newest level's best node has at least the probability ``threshold`` given its parent.

    llama.cpp's ``--draft-p-min`` and transformers' ``assistant_confidence_threshold`` (``ConfidenceCriteria``), which
    draft a chain: of a tree, the chain is the best node of each level.
    """

    kind = "p-min"
    features = ("log_probs",)

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """The best node's own probability: [N, max_depth] float32."""
        return np.asarray(np.exp(features["log_probs"][:, :, 0].astype(np.float32)))


def beam_probability(confidences: Confidences) -> NDArray[np.float32]:
    """The probability, by the draft's own belief, that each level's beam holds the text: [N, max_depth] float32."""
    return np.asarray(np.exp(confidences.astype(np.float32)).sum(axis=2))
