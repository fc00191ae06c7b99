import pytest
from synthetic_trace import HARDWARE, make_trace, with_features

from radar_rl.evaluation.decision import decision_microseconds
from radar_rl.offline.walk import Outcomes, policy_depths
from radar_rl.policies.protocol import CONTINUE, STOP, MemorylessPolicy
from radar_rl.policies.threshold import ConfidenceThreshold
from radar_rl.rollouts import Trace
from radar_rl.speculative.state import DraftState


class Led(MemorylessPolicy):
    """Stops after as many calls as the text has had rounds; notes what it is asked."""

    name, features = "led", ("entropy",)

    def __init__(self) -> None:
        self.rounds, self.asked = 0, list[tuple[int, float]]()

    def begin_sequence(self, text: str | None = None) -> None:
        self.rounds = 1

    def act(self, state: DraftState) -> int:
        self.asked.append((state.depth, float(state.features["entropy"][state.depth])))
        return CONTINUE if state.depth < self.rounds else STOP

    def end_round(self, draft_calls: int, accepted: int) -> None:
        self.rounds += 1


def test_a_decision_takes_some_microseconds(trace: Trace) -> None:
    taken = decision_microseconds(trace, ConfidenceThreshold(0.3))
    assert taken is not None
    assert taken > 0


def test_a_policy_is_led_as_it_would_be_live_and_left_as_it_was() -> None:
    trace = with_features(make_trace(prompts=3, new_tokens=30))
    policy = Led()
    policy.begin_sequence()
    shared = policy.asked
    policy.__deepcopy__ = lambda memo: _noting(shared)  # type: ignore[attr-defined]
    assert decision_microseconds(trace, policy) is not None
    assert policy.rounds == 1
    assert [depth for depth, _ in shared][:6] == [1, 1, 2, 1, 2, 3]
    assert not any(ahead for _, ahead in shared)  # nobody sees ahead


def _noting(shared: list[tuple[int, float]]) -> Led:
    other = Led()
    other.asked = shared
    return other


def test_where_nothing_is_decided_nothing_is_measured() -> None:
    assert decision_microseconds(make_trace(prompts=3, new_tokens=12, max_depth=1), ConfidenceThreshold(0.3)) is None


def test_it_changes_nothing_of_the_walk(trace: Trace) -> None:
    outcomes = Outcomes.of(trace, HARDWARE)
    policy = ConfidenceThreshold(0.3)
    before = policy_depths(outcomes, policy)
    decision_microseconds(trace, policy)
    assert (policy_depths(outcomes, policy) == before).all()
    assert policy.threshold == pytest.approx(0.3)
