"""Chains: what servers that draft one token after the other stop by, a length and a probability."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from radar_rl.errors import ConfigError
from radar_rl.policies.threshold import ProbabilityThreshold
from radar_rl.speculative.state import Confidences, FeatureValues


@dataclass
class DraftChain(ProbabilityThreshold):
    """At most ``most`` tokens, and none after one of less than ``threshold`` probability; 0 looks at no probability.

    transformers' ``num_assistant_tokens`` with ``assistant_confidence_threshold`` (``ConfidenceCriteria`` of
    generation/stopping_criteria.py), which verifies the token that was below the threshold too.

    Args:
        threshold: as above.
        most: draft calls in a round at most.
    """

    threshold: float = 0.0
    most: int = 5

    kind = "chain"
    looked_at: ClassVar[tuple[str, ...]] = ("log_probs",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.asks_from <= self.most:
            raise ConfigError(f"{self.kind}: expected most ≥ {self.asks_from} (asks_from) tokens, got {self.most}")
        self.features = self.looked_at if self.threshold else ()
        self.pays_decisions = self.pays_decisions and self.threshold > 0
        self.name = self.called(f"{self.kind}-{self.most}" + (f"-p-{self.threshold:g}" if self.threshold else ""))

    def probabilities(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """What is compared with the threshold: [N, max_depth] float32; ones where nothing is."""
        if self.threshold == 0:
            return np.ones(confidences.shape[:2], dtype=np.float32)
        return np.asarray(np.exp(features["log_probs"][:, :, 0].astype(np.float32)))

    def levels(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """The probabilities, below any threshold where ``most`` tokens are reached: [N, max_depth] float32."""
        levels = self.probabilities(confidences, features).copy()
        levels[:, self.most - 1 :] = -1.0
        return levels


@dataclass
class RenormalisedChain(DraftChain):
    """The same with each token's probability among the ten best ones of its distribution alone.

    llama.cpp's ``--spec-draft-n-max`` and ``--spec-draft-p-min`` (common/speculative.cpp): its draft sampler keeps the
    best ``LLAMA_DRAFT_TOP_K`` tokens and normalises over them, asked or not, so decisions cost nothing. The token that
    was below p-min is not verified, though its draft call was made: what a round does with it is not the rule's.
    """

    kind = "renormalised-chain"
    looked_at = ("log_probs", "top_mass")
    pays_decisions = False

    def probabilities(self, confidences: Confidences, features: FeatureValues) -> NDArray[np.float32]:
        """The best node's probability over that of the ten best tokens: [N, max_depth] float32."""
        if self.threshold == 0:
            return super().probabilities(confidences, features)
        difference = features["log_probs"][:, :, 0].astype(np.float32) - features["top_mass"].astype(np.float32)
        return np.asarray(np.exp(difference))
