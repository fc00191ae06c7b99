import numpy as np

from radar_rl.offline.tuning import THRESHOLDS, tune_rules
from radar_rl.offline.walk import Outcomes, walk_policy
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.threshold import ConfidenceThreshold


def test_the_tuned_rules_are_the_fastest_of_their_kind(outcomes: Outcomes) -> None:
    rules = tune_rules(outcomes)
    speeds = [walk_policy(outcomes, StaticDepth(depth)).tokens_per_second for depth in range(1, 9)]
    assert rules.static.depth == int(np.argmax(speeds)) + 1
    assert rules.static_walk.tokens_per_second == max(speeds)
    tuned = walk_policy(outcomes, rules.threshold).tokens_per_second
    assert all(tuned >= walk_policy(outcomes, ConfidenceThreshold(p)).tokens_per_second for p in THRESHOLDS)
