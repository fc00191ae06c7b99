import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, written_out

from radar_rl.errors import ConfigError
from radar_rl.offline.behaviour import decide
from radar_rl.offline.walk import Outcomes, walk, walk_oracle
from radar_rl.policies.protocol import CONTINUE, STOP


@pytest.mark.parametrize("behaviour", ["full", "uniform", "oracle"])
def test_decisions_leave_out_censored_rows_and_the_last_call(outcomes: Outcomes, behaviour) -> None:
    decisions = written_out(decide(behaviour, outcomes, seed=0))
    assert not outcomes.trace.censored[decisions.row].any()
    assert outcomes.trace.censored.any()
    assert set(np.unique(decisions.depth)) <= set(range(1, 8))


def test_full_takes_both_actions_everywhere(outcomes: Outcomes) -> None:
    decisions = written_out(decide("full", outcomes, seed=0))
    states = np.stack([decisions.row, decisions.depth, decisions.action], axis=1)
    assert len(np.unique(states, axis=0)) == len(states) == (~outcomes.trace.censored).sum() * 7 * 2


def test_uniform_stops_at_every_depth_alike() -> None:
    outcomes = Outcomes.of(make_trace(prompts=200, cut=False), HARDWARE)
    decisions = decide("uniform", outcomes, seed=3)
    rows = len(outcomes.trace)
    stops = np.bincount(decisions.depth[decisions.action == STOP], minlength=8)[1:] / rows
    np.testing.assert_allclose(stops, 1 / 8, atol=0.02)
    # A round goes on until it stops: depth d is decided about once per row that did not stop before.
    reached = np.bincount(decisions.depth, minlength=8)[1:] / rows
    np.testing.assert_allclose(reached, 1 - np.arange(7) / 8, atol=0.02)
    again = decide("uniform", outcomes, seed=3)
    np.testing.assert_array_equal(decisions.action, again.action)


def test_following_the_oracles_decisions_is_the_oracle(outcomes: Outcomes) -> None:
    decisions = decide("oracle", outcomes, seed=0)
    goes_on = np.zeros((len(outcomes.trace), 9), dtype=bool)
    chosen = decisions.action == CONTINUE
    goes_on[decisions.row[chosen], decisions.depth[chosen]] = True
    depths = np.argmin(goes_on[:, 1:], axis=1) + 1
    # Censored rows have no decisions: give them the oracle's by walking only texts without any.
    whole = ~np.isin(np.arange(24), outcomes.trace.sequence[outcomes.trace.censored])
    best, followed = walk_oracle(outcomes), walk(outcomes, depths, pays_decisions=False)
    assert whole.sum() > 5
    np.testing.assert_allclose(followed.seconds[whole], best.seconds[whole])


def test_the_oracles_weight_is_what_the_other_choice_loses(outcomes: Outcomes) -> None:
    decisions = decide("oracle", outcomes, seed=0)
    # In the text's last round the rest is nothing: what is lost can be counted directly.
    last = (outcomes.next_row < 0).all(axis=1)
    i = int(np.flatnonzero(last[decisions.row] & (decisions.depth == 1))[0])
    totals = outcomes.seconds
    assert decisions.weight is not None
    assert decisions.action[i] == STOP
    assert decisions.weight[i] == pytest.approx(totals[1:].min() - totals[0], rel=1e-5)


def test_what_cannot_be_decided_is_refused(outcomes: Outcomes) -> None:
    with pytest.raises(ConfigError, match="valid: full, uniform, oracle"):
        decide("random", outcomes, seed=0)  # type: ignore[arg-type]
    flat = Outcomes.of(make_trace(prompts=2, max_depth=1), HARDWARE)
    with pytest.raises(ConfigError, match="nothing to decide"):
        decide("full", flat, seed=0)
