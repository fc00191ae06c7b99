import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_trace import HARDWARE, written_out

from radar_rl.errors import ConfigError
from radar_rl.offline.behaviour import Decisions, EveryDecision, decide
from radar_rl.offline.transitions import TraceTransitions, Transitions
from radar_rl.offline.walk import Outcomes, walk
from radar_rl.policies.protocol import CONTINUE, STOP
from radar_rl.rollouts.reward import Reward


def everywhere(outcomes: Outcomes) -> Decisions:
    """Both actions at every state, censored rows too."""
    return EveryDecision(np.arange(len(outcomes.trace), dtype=np.int32), outcomes.max_depth)


def transitions_of(outcomes: Outcomes, decisions: Decisions, reward: Reward, episode) -> Transitions:
    return written_out(TraceTransitions.of(outcomes, decisions, reward, episode))


def returns(table: Transitions, depths: np.ndarray, start: int) -> float:
    """Reward of following ``depths`` from a row on, transition by transition."""
    index = {(r, d, a): i for i, (r, d, a) in enumerate(zip(table.row, table.depth, table.action, strict=True))}
    row, depth, total = start, 1, 0.0
    while True:
        i = index[row, depth, CONTINUE if depth < depths[row] else STOP]
        total += float(table.reward[i])
        if table.terminal[i]:
            return total
        row, depth = int(table.next_row[i]), int(table.next_depth[i])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 1000.0))
def test_rewards_of_a_text_add_up_to_emitted_minus_rate_times_seconds(
    outcomes: Outcomes, seed: int, rate: float
) -> None:
    depths = np.random.default_rng(seed).integers(1, 9, size=len(outcomes.trace))
    run = walk(outcomes, depths, pays_decisions=True)
    table = transitions_of(outcomes, everywhere(outcomes), Reward(rate=rate), "sequence")
    for text in (0, 5):
        start = int(outcomes.trace.first_row[text])
        expected = run.emitted[text] - rate * run.seconds[text]
        assert returns(table, depths, start) == pytest.approx(expected, abs=1e-3 + 1e-5 * rate)


def test_rounds_as_episodes_end_at_the_stop(outcomes: Outcomes) -> None:
    table = transitions_of(outcomes, decide("full", outcomes, 0), Reward(rate=300.0), "round")
    stops = (table.action == STOP) | (table.depth == 7)
    np.testing.assert_array_equal(table.terminal, stops)
    assert (table.next_depth[~stops] == table.depth[~stops] + 1).all()
    assert (table.next_row[~stops] == table.row[~stops]).all()


def test_continuing_into_the_last_call_earns_the_forced_stop(outcomes: Outcomes) -> None:
    reward = Reward(kind="linear", cost=0.25)
    table = transitions_of(outcomes, decide("full", outcomes, 0), reward, "sequence")
    last = (table.depth == 7) & (table.action == CONTINUE)
    np.testing.assert_allclose(table.reward[last], outcomes.emitted[table.row[last], 7] - 0.25)
    np.testing.assert_array_equal(table.next_row[last], outcomes.next_row[table.row[last], 7])


def test_radars_reward_is_speed_minus_calls(outcomes: Outcomes) -> None:
    table = transitions_of(outcomes, decide("full", outcomes, 0), Reward(kind="radar"), "round")
    i = int(np.flatnonzero((table.depth == 2) & (table.action == STOP))[0])
    seconds = 2 * 0.001 + HARDWARE.verify(60) + 0.0002 + 2 * 0.00001
    assert table.reward[i] == pytest.approx(0.03084 * outcomes.emitted[table.row[i], 1] / seconds, rel=1e-6)


def test_unknown_episode(outcomes: Outcomes) -> None:
    with pytest.raises(ConfigError, match="valid: sequence, round"):
        transitions_of(outcomes, decide("full", outcomes, 0), Reward(), "text")
