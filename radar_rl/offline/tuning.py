"""Rules tuned on training texts: the best static depth and the best confidence threshold, by exact walks."""

from dataclasses import dataclass

import numpy as np

from radar_rl.offline.walk import Outcomes, Walk, walk_policy
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.threshold import ConfidenceThreshold

THRESHOLDS = tuple(round(float(value), 3) for value in np.r_[0.005, 0.01, 0.02, 0.035, np.arange(0.05, 1.0, 0.05)])


@dataclass(frozen=True)
class TunedRules:
    """The fastest rule of each kind on the texts they were tuned on.

    Attributes:
        static: the best static depth.
        threshold: the best confidence threshold.
        static_walk: the walk of ``static`` over those texts; its throughput is the first λ.
    """

    static: StaticDepth
    threshold: ConfidenceThreshold
    static_walk: Walk


def tune_rules(outcomes: Outcomes) -> TunedRules:
    """The static depth and the threshold with the highest tokens per second; of equally fast ones the first."""
    statics = [StaticDepth(depth) for depth in range(1, outcomes.max_depth + 1)]
    walks = [walk_policy(outcomes, rule) for rule in statics]
    best = int(np.argmax([run.tokens_per_second for run in walks]))
    thresholds = [ConfidenceThreshold(value) for value in THRESHOLDS]
    fastest = int(np.argmax([walk_policy(outcomes, rule).tokens_per_second for rule in thresholds]))
    return TunedRules(statics[best], thresholds[fastest], walks[best])
