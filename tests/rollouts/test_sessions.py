from pathlib import Path

import numpy as np
import pytest

from radar_rl.errors import TraceError
from radar_rl.rollouts import ReplayTexts, Trace, load_trace, sequence_seed


def test_sequence_seeds_are_stable_and_differ() -> None:
    assert sequence_seed(0, "gsm8k-test-1", 0) == 2500570984351302832
    seeds = {sequence_seed(s, p, n) for s in range(3) for p in ("a", "b", "1/a") for n in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_replayed_round_is_the_traced_one(trace: Trace) -> None:
    texts = ReplayTexts(trace)
    accepted = trace.accepted
    session = texts.open(2)
    row = int(np.flatnonzero(trace.sequence == 2)[0])
    rng = np.random.default_rng(0)
    while not session.finished:
        calls = int(rng.integers(1, 9))
        state = session.begin()
        for _ in range(calls - 1):
            state = session.draft()
        assert (state.position, state.depth) == (trace.position[row], calls)
        np.testing.assert_array_equal(state.confidences[:calls], trace.confidences[row, :calls])
        assert np.isneginf(state.confidences[calls:]).all()
        outcome = session.verify()
        assert outcome.accepted == accepted[row, calls - 1]
        row += outcome.emitted
    assert row == np.flatnonzero(trace.sequence == 2)[-1] + 1


def test_shallower_and_smaller_than_collected(trace: Trace, collection: Path) -> None:
    small = load_trace(collection, tree_size=12)
    texts = ReplayTexts(small, max_depth=3, tree_size=12)
    assert texts.tree_size == 12
    session = texts.open(0)
    assert session.begin().confidences.shape == (3, 10)
    session.draft()
    assert session.verify().accepted == small.accepted[0, 1]
    for wrong in (9, 0):
        with pytest.raises(TraceError, match="as collected"):
            ReplayTexts(trace, max_depth=wrong)
    with pytest.raises(TraceError, match="read for trees of 60 nodes, got 12"):
        ReplayTexts(trace, tree_size=12)
    with pytest.raises(TraceError, match="no rows"):
        ReplayTexts(trace.select(np.zeros(len(trace.sequences), dtype=bool)))


def test_censoring_is_the_traced_one(trace: Trace) -> None:
    texts = ReplayTexts(trace)
    for index in range(len(texts)):
        rows = np.flatnonzero(trace.sequence == index)
        session = texts.open(index)
        assert [session.censored(int(p)) for p in trace.position[rows]] == trace.censored[rows].tolist()
