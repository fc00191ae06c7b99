"""An action that nobody took is told, and what it means; where only one was ever taken, nothing can be learned."""

import logging

import numpy as np
import pytest
from synthetic_trace import written_out

from radar_rl.errors import ConfigError
from radar_rl.offline import coverage
from radar_rl.offline.algorithms import ALGORITHMS
from radar_rl.offline.behaviour import decide, stopping_at
from radar_rl.offline.coverage import actions_taken, check_actions
from radar_rl.offline.transitions import TraceTransitions
from radar_rl.offline.walk import Outcomes
from radar_rl.rollouts.reward import Reward


def static(outcomes: Outcomes, depth: int) -> np.ndarray:
    decisions = stopping_at(outcomes, np.full(len(outcomes.trace), depth, dtype=np.int8))
    return actions_taken(decisions, outcomes.max_depth)


@pytest.mark.parametrize("behaviour", ["full", "uniform", "oracle"])
def test_actions_are_counted_call_by_call(outcomes: Outcomes, behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "PIECE", 100)  # several pieces, and a rest
    decisions = decide(behaviour, outcomes, 0)
    every = written_out(decisions)
    counted = [[int(((every.depth == d) & (every.action == a)).sum()) for a in (0, 1)] for d in range(1, 8)]
    np.testing.assert_array_equal(actions_taken(decisions, 8), counted)
    transitions = written_out(TraceTransitions.of(outcomes, decisions, Reward(rate=300.0), "sequence"))
    np.testing.assert_array_equal(actions_taken(transitions, 8), counted)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_what_is_missing_is_told_with_what_it_means(
    outcomes: Outcomes, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_actions(static(outcomes, 4), name, "static-4")
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"behaviour static-4 never takes stop after draft call 1, 2, 3; algo={name}: ")
    assert said[1].startswith(f"behaviour static-4 never takes continue after draft call 4; algo={name}: ")
    assert len(said) == 2  # calls that it never comes to lack nothing
    assert name not in coverage.WITHOUT or coverage.WITHOUT[name] in said[0]
    assert {"cql", "iql", "bc", "bcq", "ddqn"} <= set(coverage.WITHOUT)


def test_an_estimator_is_told_of_by_its_own_name(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    check_actions(static(outcomes, 4), coverage.FITTED_Q, "static")
    said = caplog.records[0].getMessage()
    assert "after draft call 1, 2, 3; fitted Q evaluation: a policy that takes the missing one" in said


def test_nothing_is_said_where_both_actions_occur(outcomes: Outcomes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_actions(actions_taken(decide("full", outcomes, 0), 8), "cql", "full")
    assert not caplog.records


@pytest.mark.parametrize(("depth", "word"), [(1, "stop"), (8, "continue")])
def test_one_action_alone_teaches_nothing(outcomes: Outcomes, depth: int, word: str) -> None:
    with pytest.raises(ConfigError, match=f"static-{depth}: expected both actions in the data, got only {word}"):
        check_actions(static(outcomes, depth), "bc", f"static-{depth}")
