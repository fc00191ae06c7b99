"""What is computed piece by piece is what would be computed at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from synthetic_trace import written_out

from radar_rl.offline.behaviour import decide
from radar_rl.offline.shaping import potential
from radar_rl.offline.walk import Outcomes, policy_depths, walk_oracle
from radar_rl.policies import States
from radar_rl.policies.static import StaticDepth
from radar_rl.policies.threshold import ConfidenceThreshold
from radar_rl.rollouts import Reward, Trace

COMPUTED: dict[str, Callable[[Outcomes], Any]] = {
    "threshold": lambda outcomes: policy_depths(outcomes, ConfidenceThreshold(0.3)),
    "static": lambda outcomes: policy_depths(outcomes, StaticDepth(3)),
    "oracle": lambda outcomes: walk_oracle(outcomes).seconds,
    "potential": lambda outcomes: potential(outcomes, Reward(rate=300.0), "sequence"),
    "potential of rounds": lambda outcomes: potential(outcomes, Reward("radar"), "round"),
    **{
        f"{name} {column}": lambda outcomes, name=name, column=column: getattr(
            written_out(decide(name, outcomes, 0)), column
        )
        for name in ("uniform", "oracle")
        for column in ("row", "depth", "action", "weight")
    },
}


@pytest.mark.parametrize("computed", COMPUTED.values(), ids=COMPUTED)
def test_the_size_of_a_piece_changes_nothing(
    outcomes: Outcomes, computed: Callable[[Outcomes], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = computed(outcomes)
    at_once = Trace.pieces
    monkeypatch.setattr(Trace, "pieces", lambda trace: at_once(trace, 50))
    assert len(list(outcomes.pieces())) > 10
    np.testing.assert_array_equal(computed(outcomes), whole)


def test_rules_decide_rows_together_as_one_by_one(outcomes: Outcomes) -> None:
    confidences = outcomes.trace.confidences
    for rule in (ConfidenceThreshold(0.05), ConfidenceThreshold(0.5), StaticDepth(2), StaticDepth(8)):
        expected = np.full(len(confidences), 8)
        for depth in range(7, 0, -1):
            goes_on = rule.continues(States(confidences, np.full(len(confidences), depth)))
            expected[~goes_on] = depth
        np.testing.assert_array_equal(rule.stop_depths(confidences), expected)
