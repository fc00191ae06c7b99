import numpy as np

from radar_rl.offline.hindsight import best_from, stopping_values
from radar_rl.offline.walk import Outcomes, walk_oracle


def test_the_best_value_at_a_texts_start_is_the_oracles_seconds(outcomes: Outcomes) -> None:
    trace = outcomes.trace
    values = stopping_values(outcomes.seconds, outcomes.next_row, trace.sequence)
    best = walk_oracle(outcomes)
    np.testing.assert_allclose(values[trace.first_row].min(axis=1), best.seconds[trace.sequence[trace.first_row]])


def test_the_last_round_costs_itself(outcomes: Outcomes) -> None:
    values = stopping_values(outcomes.seconds, outcomes.next_row, outcomes.trace.sequence)
    ends = outcomes.next_row < 0
    np.testing.assert_allclose(values[ends], np.broadcast_to(outcomes.seconds, ends.shape)[ends])


def test_the_best_of_stopping_later() -> None:
    np.testing.assert_array_equal(best_from(np.array([[3.0, 1.0, 2.0]])), [[1.0, 1.0, 2.0]])
