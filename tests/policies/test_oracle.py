"""The oracle against brute force."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radar_rl.errors import InputError
from radar_rl.policies import oracle_depths


def cost(depths: np.ndarray, seconds: np.ndarray, next_row: np.ndarray, row: int) -> float:
    total = 0.0
    while row >= 0:
        total += seconds[depths[row] - 1]
        row = int(next_row[row, depths[row] - 1])
    return total


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_no_choice_of_depths_is_faster(lengths: list[int], levels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.repeat(np.cumsum(lengths), lengths)
    rows = np.arange(len(sequence))
    emitted = 1 + np.sort(generator.integers(0, levels + 1, (len(rows), levels)), axis=1)
    next_row = rows[:, None] + emitted
    next_row = np.where(next_row >= ends[:, None], -1, next_row)
    seconds = np.cumsum(generator.random(levels)) + 0.5

    @functools.cache
    def best(row: int) -> float:
        return 0.0 if row < 0 else min(seconds[i] + best(int(next_row[row, i])) for i in range(levels))

    depths = oracle_depths(seconds, next_row, sequence)
    for first in np.cumsum([0, *lengths[:-1]]):
        assert cost(depths, seconds, next_row, int(first)) == pytest.approx(best(int(first)))


def test_a_round_that_does_not_advance_is_refused() -> None:
    with pytest.raises(InputError, match="after the one before"):
        oracle_depths(np.ones(1), np.array([[0]]), np.array([0]))
