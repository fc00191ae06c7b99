import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_trace import MadeTrace, make_trace

from radar_rl.errors import TraceError
from radar_rl.rollouts import NO_RANK, Trace
from radar_rl.rollouts.trace import accepted_tokens


def accepted_by_definition(trace: MadeTrace, row: int, calls: int, tree_size: int) -> int:
    """Follow the path node by node while it is among the verified ones and the text goes on."""
    count = 0
    for rank in trace.ranks[row, calls - 1]:
        verified = min(trace.settings.top_k, tree_size - 1) if calls == 1 else tree_size - 1
        if rank == NO_RANK or rank >= verified or count == trace.remaining[row]:
            break
        count += 1
    return count


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), tree_size=st.integers(2, 60))
def test_accepted_follows_the_path(seed: int, tree_size: int) -> None:
    trace = make_trace(prompts=3, new_tokens=12, seed=seed, max_depth=4)
    accepted = trace.at(tree_size).accepted
    for row in range(len(trace)):
        expected = [accepted_by_definition(trace, row, calls, tree_size) for calls in range(1, 5)]
        assert accepted[row].tolist() == expected


def test_a_wider_first_level_accepts_more_only_after_call_1() -> None:
    ranks = np.full((1, 2, 2), NO_RANK)
    ranks[0, 0, 0] = 15  # among tree_size − 1 = 59 children, not among the 10 of the beam
    long = np.array([9])
    assert accepted_tokens(ranks, long, top_k=10, tree_size=60).tolist() == [[0, 0]]
    assert accepted_tokens(ranks, long, top_k=10, tree_size=60, widen_first_level=True).tolist() == [[1, 0]]


def test_walks_end_with_the_text(trace: Trace) -> None:
    for depth in range(1, trace.settings.max_depth + 1):
        emitted, following = trace.stop(np.arange(len(trace)), depth)
        for i, start in enumerate(trace.first_row):
            row, tokens = int(start), 1
            while row >= 0:
                tokens += int(emitted[row])
                row = int(following[row])
            assert tokens == trace.sequences.length[i] - trace.sequences.prompt_length[i]


def test_selecting_sequences_keeps_their_rows(trace: Trace) -> None:
    keep = np.arange(len(trace.sequences)) % 2 == 1
    some = trace.select(keep)
    assert some.sequences.prompt_id == [
        name for name, kept in zip(trace.sequences.prompt_id, keep, strict=True) if kept
    ]
    rows = keep[trace.sequence]
    np.testing.assert_array_equal(some.confidences, trace.confidences[rows])
    np.testing.assert_array_equal(some.accepted, trace.accepted[rows])
    assert not trace.select(np.zeros_like(keep)).first_row.size


@pytest.mark.parametrize("size", [1, 20, 50, 10**6])
def test_pieces_are_whole_texts_in_order(trace: Trace, size: int) -> None:
    pieces = list(trace.pieces(size))
    assert [0, *(piece.stop for piece in pieces)] == [*(piece.start for piece in pieces), len(trace)]
    assert {piece.start for piece in pieces} <= set(trace.first_row.tolist())
    for piece in pieces:
        some = trace.rows_of(piece)
        assert len(some) <= size or len(np.unique(some.sequence)) == 1
        assert np.shares_memory(some.confidences, trace.confidences)
        np.testing.assert_array_equal(some.remaining, trace.remaining[piece])
    assert not list(trace.select(np.zeros(len(trace.sequences), dtype=bool)).pieces())


def test_another_tree_size_than_it_was_read_for_is_refused(trace: Trace) -> None:
    trace.check_tree_size(None)
    trace.check_tree_size(60)
    with pytest.raises(TraceError, match=r"read for trees of 60 nodes, got 20; .*load_trace\(path, tree_size=20\)"):
        trace.check_tree_size(20)
