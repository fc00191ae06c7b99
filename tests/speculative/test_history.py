"""Accepted history: newest first, of a fixed number of rounds, the same wherever rounds come from."""

from typing import Any

import numpy as np
import pytest

from radar_rl.errors import ConfigError
from radar_rl.rollouts.tracer import trace_sequence
from radar_rl.speculative import Pair, SpeculativeBatch, SpeculativeSession
from radar_rl.speculative.features import check_columns, columns_of
from radar_rl.speculative.history import MOST, NO_ROUND, ROUNDS, after_round, no_rounds


def test_the_newest_round_comes_first_and_the_oldest_falls_out() -> None:
    history = no_rounds()
    seen = []
    for accepted in (3, 0, 5, 2, 8):
        before = history.copy()
        longer = after_round(history, accepted)
        np.testing.assert_array_equal(history, before)  # a state that was kept stays as it was
        history = longer
        seen.append(history.tolist())
    assert seen == [[3, -1, -1, -1], [0, 3, -1, -1], [5, 0, 3, -1], [2, 5, 0, 3], [8, 2, 5, 0]]
    assert (ROUNDS, NO_ROUND) == (4, -1)


def test_texts_side_by_side_have_each_their_own() -> None:
    history = after_round(no_rounds(3), np.array([1, 200, 0], dtype=np.uint8))
    assert history.dtype == np.int8
    assert history[:, 0].tolist() == [1, MOST, 0]
    assert (history[:, 1:] == NO_ROUND).all()


@pytest.mark.parametrize("draft_source", ["head", "hybrid"])
def test_a_session_shows_what_its_last_rounds_accepted(pocket: Pair, draft_source: Any) -> None:
    rng, accepted = np.random.default_rng(0), list[int]()
    ids = pocket.encode_prompt("Write a Python function that adds numbers.")
    session = SpeculativeSession(pocket, ids, max_new_tokens=60, features=["history"], draft_source=draft_source)
    while not session.finished:
        state = session.begin()
        kept = [state]
        while state.depth < 8 and rng.random() < 0.6:
            state = session.draft()
            kept.append(state)
        expected = [*accepted[::-1], -1, -1, -1, -1][:4]
        assert all(state.features["history"].tolist() == expected for state in kept)
        accepted.append(session.verify().accepted)
    assert len(accepted) > 6
    assert len(set(accepted)) > 1


def test_a_text_that_leaves_takes_its_history_with_it(pocket: Pair) -> None:
    prompts = [pocket.encode_prompt(text) for text in ("Name a colour.", "Count to ten.", "Say hello.")]
    batch = SpeculativeBatch(pocket, prompts, max_new_tokens=16, max_depth=3, features=["history"])
    accepted: dict[int, list[int]] = {number: [] for number in batch.active}
    sizes = set()
    while batch.active:
        active = list(batch.active)
        states = batch.begin()
        for number, state in zip(active, states, strict=True):
            assert state.features["history"].tolist() == [*accepted[number][::-1], -1, -1, -1, -1][:4]
        batch.draft([0])  # the first one gets ahead
        for number, ended in zip(active, batch.verify(), strict=True):
            accepted[number].append(ended.accepted)
        sizes.add(len(batch.active))
    assert sizes & {1, 2}  # one ended before another


def test_no_trace_can_hold_it(pocket: Pair) -> None:
    assert columns_of(["history", "entropy"]) == ("entropy",)
    check_columns(["entropy", "ngram"])
    with pytest.raises(ConfigError, match=r"history depends on what a policy decided .* observe it when training"):
        trace_sequence(pocket, [5, 6, 7, 8], 2, max_depth=2, top_k=2, tree_size=4, features=["entropy", "history"])
