import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_trace import make_trace

from radar_rl.errors import TraceError
from radar_rl.rollouts import NO_RANK, Trace
from radar_rl.rollouts.trace import accepted_tokens


def accepted_by_definition(trace: Trace, row: int, calls: int, tree_size: int) -> int:
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
    accepted = trace.accepted(tree_size)
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
    for depth in range(trace.settings.max_depth):
        emitted = trace.emitted(trace.accepted())[:, depth]
        following = trace.next_row(emitted)
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
    np.testing.assert_array_equal(some.accepted(), trace.accepted()[rows])
    assert not trace.select(np.zeros_like(keep)).first_row.size


def test_larger_trees_than_collected_are_refused(trace: Trace) -> None:
    with pytest.raises(TraceError, match="as collected"):
        trace.accepted(tree_size=61)
