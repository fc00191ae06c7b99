from pathlib import Path

import numpy as np
import pytest
from synthetic_trace import with_features

from radar_rl.errors import TraceError
from radar_rl.rollouts import ReplayTexts, Trace, load_trace, sequence_seed
from radar_rl.speculative.features import COLUMNS


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


def test_a_replayed_state_has_the_features_of_its_calls_only(trace: Trace) -> None:
    trace = with_features(trace)
    texts = ReplayTexts(trace, max_depth=4, features=list(COLUMNS))
    session = texts.open(1)
    row = int(np.flatnonzero(trace.sequence == 1)[0])
    states = [session.begin(), session.draft(), session.draft()]
    for calls, state in enumerate(states, start=1):
        assert list(state.features) == list(COLUMNS)
        for name, found in state.features.items():
            shape = COLUMNS[name].shape(max_depth=4, top_k=10, feature_dim=3)
            assert found.shape == shape
            stored = trace.features[name][row][tuple(slice(size) for size in shape)]
            if COLUMNS[name].per_call:
                np.testing.assert_array_equal(found[:calls], stored[:calls])
                assert not found[calls:].any()
            else:
                np.testing.assert_array_equal(found, stored)
    assert ReplayTexts(trace).open(1).begin().features == {}


def test_a_state_that_was_kept_sees_no_later_call(trace: Trace) -> None:
    session = ReplayTexts(trace).open(0)
    states = [session.begin(), session.draft(), session.draft()]
    assert [int(np.isfinite(state.confidences).any(axis=1).sum()) for state in states] == [1, 2, 3]


def test_features_that_a_trace_was_not_read_with_are_named(trace: Trace) -> None:
    with pytest.raises(TraceError, match=r"read without entropy,mass \(it was collected with: none\)"):
        ReplayTexts(trace, features=["entropy", "mass"])


def test_a_replay_shows_its_beams(trace: Trace) -> None:
    session = ReplayTexts(trace).open(0)
    session.begin()
    session.draft()
    view = session.view()
    assert (view.draft_calls, view.accepted, view.parents, view.labels) == (2, None, None, None)
    assert view.depths.tolist() == [0] + [1] * 10 + [2] * 10
    np.testing.assert_array_equal(view.log_probs[1:], trace.confidences[0, :2].astype(np.float32).ravel())
    outcome = session.verify()
    view = session.view()
    assert (view.draft_calls, view.accepted, view.emitted) == (2, outcome.accepted, outcome.emitted)
    session.begin()
    assert session.view().accepted is None
    assert session.written() is None
