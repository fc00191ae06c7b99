import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, written_out

from radar_rl.errors import ConfigError
from radar_rl.offline.behaviour import DecisionTable, decide
from radar_rl.offline.tuning import tune_rules, tune_static
from radar_rl.offline.walk import Outcomes, policy_depths, walk, walk_oracle
from radar_rl.policies.protocol import CONTINUE, STOP


@pytest.mark.parametrize("behaviour", ["full", "uniform", "static", "mixture", "oracle"])
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


def stops_of(decisions: DecisionTable, rows: int) -> np.ndarray:
    """The depth at which each row's round stops, 8 where no stop was decided."""
    stops, chosen = np.full(rows, 8), decisions.action == STOP
    stops[decisions.row[chosen]] = decisions.depth[chosen]
    return stops


def test_the_static_behaviour_is_the_tuned_depth(outcomes: Outcomes) -> None:
    depth, free = tune_static(outcomes).static.depth, ~outcomes.trace.censored
    assert (stops_of(written_out(decide("static", outcomes, seed=0)), len(outcomes.trace))[free] == depth).all()


def test_in_a_mixture_every_round_is_one_of_the_tuned_rules(outcomes: Outcomes) -> None:
    stops = stops_of(written_out(decide("mixture", outcomes, seed=1)), len(outcomes.trace))
    tuned = tune_rules(outcomes, ["threshold", "joint", "gain"])  # the others look at features
    depths = np.stack([policy_depths(outcomes, rule) for rule in (tuned.static, *tuned.rules)])
    free = ~outcomes.trace.censored
    assert (depths == stops).any(axis=0)[free].all()
    for alone in depths:  # each plays some rounds
        others = (depths == alone).sum(axis=0) == 1
        assert (stops == alone)[free & others].any()
        assert (stops != alone)[free].any()
    assert (stops != stops_of(written_out(decide("mixture", outcomes, seed=2)), len(stops))).any()


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
    with pytest.raises(ConfigError, match="valid: full, uniform, static, mixture, oracle"):
        decide("random", outcomes, seed=0)  # type: ignore[arg-type]
    flat = Outcomes.of(make_trace(prompts=2, max_depth=1), HARDWARE)
    with pytest.raises(ConfigError, match="nothing to decide"):
        decide("full", flat, seed=0)
