"""Accepted history in walks and in what training reads."""

from typing import Any

import numpy as np
import pytest
from synthetic_trace import HARDWARE, make_trace, with_features

from radar_rl.offline.behaviour import decide
from radar_rl.offline.data import TraceData
from radar_rl.offline.fit import Training
from radar_rl.offline.history import history_along, roots
from radar_rl.offline.stopping import fit_stopping
from radar_rl.offline.walk import Outcomes, policy_depths, walk_policy
from radar_rl.policies import LearnedPolicy, ObservationSpec
from radar_rl.policies.protocol import MemorylessPolicy
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.sessions import ReplayTexts
from radar_rl.rollouts.trace import Trace

SEEN = ("confidences", "depth", "history")


def by_hand(trace: Trace, depths: np.ndarray) -> list[list[int]]:
    """The history at every row, from the definition."""
    histories: list[list[int]] = [[] for _ in range(len(trace))]
    for first in trace.first_row:
        row, accepted = int(first), list[int]()
        while row >= 0:
            following = int(trace.stop(np.array([row]), int(depths[row]))[1][0])
            end = following if following >= 0 else row + int(trace.remaining[row])
            histories[row] = accepted[::-1]
            for inside in range(row + 1, end):  # had the round ended here
                histories[inside] = [inside - row - 1, *accepted[::-1]]
            accepted.append(int(trace.accepted[row, depths[row] - 1]))
            row = following
    return [[*history, -1, -1, -1, -1][:4] for history in histories]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_has_the_history_of_the_walk(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = make_trace(prompts=9, new_tokens=40, seed=seed)
    depths = np.random.default_rng(seed).integers(1, 9, size=len(trace))
    history = history_along(trace, depths)
    assert history.dtype == np.int8
    assert history.tolist() == by_hand(trace, depths)
    begins = roots(trace, depths)
    assert 0 < begins.sum() < len(trace)
    monkeypatch.setattr(Trace.pieces, "__defaults__", (60,))  # several pieces
    np.testing.assert_array_equal(history_along(trace, depths), history)


def looking(seed: int = 0) -> LearnedPolicy:
    """A policy that goes on longer the more was accepted before."""
    spec = ObservationSpec(features=("depth", "history", "ngram"))
    weight = np.zeros((2, spec.size), np.float32)
    weight[1] = [-4.0, 1.0, 0.7, 0.4, 0.2, 0.1]
    return LearnedPolicy("looking", spec, [(weight, np.array([0, 0.33], np.float32))])  # no sum of these is zero


class Alone:
    """The policy without its vectorised base: led through the texts one by one."""

    def __init__(self, policy: MemorylessPolicy) -> None:
        self.name, self.pays_decisions, self.act = policy.name, policy.pays_decisions, policy.act
        self.asks_from = policy.asks_from

    def begin_sequence(self, text: str | None = None) -> None:
        pass

    def end_round(self, draft_calls: int, accepted: int) -> None:
        pass


@pytest.fixture(scope="module")
def seen() -> Outcomes:
    return Outcomes.of(with_features(make_trace(prompts=9, new_tokens=60, seed=3)), HARDWARE)


def test_texts_walked_in_step_are_texts_walked_alone(seen: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trace.pieces, "__defaults__", (130,))
    trace, policy = seen.trace, looking()
    together, alone = policy_depths(seen, policy), policy_depths(seen, Alone(policy))
    begins = roots(trace, together)
    np.testing.assert_array_equal(together[begins], alone[begins])
    assert len(np.unique(together[begins])) > 3
    blind = policy.stop_depths(trace.confidences, {**trace.features, "history": np.full((len(trace), 4), -1)})
    assert (together[begins] != blind[begins]).any()  # it does matter
    totals, single = walk_policy(seen, policy), walk_policy(seen, Alone(policy))
    np.testing.assert_allclose(totals.seconds, single.seconds)


def test_rows_between_the_rounds_are_asked_with_the_history_they_would_have(seen: Outcomes) -> None:
    trace, policy = seen.trace, looking()
    depths = policy_depths(seen, policy)
    history = np.array(by_hand(trace, depths))
    np.testing.assert_array_equal(depths, policy.stop_depths(trace.confidences, {**trace.features, "history": history}))


def test_a_replayed_session_is_the_walk(seen: Outcomes) -> None:
    policy, trace = looking(), seen.trace
    depths = policy_depths(seen, policy)
    texts = ReplayTexts(trace, features=policy.features)
    for index in range(len(texts)):
        session, rows = texts.open(index), np.flatnonzero(trace.sequence == index)
        while not session.finished:
            state = session.begin()
            while state.depth < 8 and policy.act(state):
                state = session.draft()
            assert state.depth == depths[rows[state.position - trace.position[rows[0]]]]
            session.verify()


def data(outcomes: Outcomes, observation: tuple[str, ...] = SEEN) -> TraceData:
    reward = Reward.from_mapping({"kind": "throughput"}, rate=0.0)
    return TraceData.of(outcomes, decide("full", outcomes, 0), reward, "sequence", observation)


def test_training_begins_with_the_history_of_the_tuned_static_depth(outcomes: Outcomes) -> None:
    made, trace = data(outcomes), outcomes.trace
    depths = np.full(len(trace), made.static.static.depth)
    rows = np.arange(0, len(trace), 3)
    shown = made.source.observe(rows, np.full(len(rows), 2))[:, -4:]
    np.testing.assert_array_equal(shown, np.array(by_hand(trace, depths))[rows])
    made.look_back(np.full(len(trace), 8))
    after = made.source.observe(rows, np.full(len(rows), 2))[:, -4:]
    np.testing.assert_array_equal(after, np.array(by_hand(trace, np.full(len(trace), 8)))[rows])
    assert "history" not in trace.features  # nobody changes a trace
    data(outcomes, ("confidences", "depth")).look_back(depths)  # of no account


@pytest.mark.parametrize("name", ["fitted", "direct"])
def test_a_learner_that_knows_its_depths_looks_back_along_them(outcomes: Outcomes, name: str) -> None:
    made = data(outcomes)
    settings: dict[str, Any] = {"name": name, "hidden": [8], "learning_rate": 1e-3, "weight_decay": 0.0}
    fitted = fit_stopping(made, settings, Training(steps=20, batch_size=70, seed=0))
    depths = policy_depths(outcomes, fitted.policy)
    np.testing.assert_array_equal(made.source.features["history"], history_along(outcomes.trace, depths))
    assert fitted.curve[-1]["tokens_per_second"] == walk_policy(outcomes, fitted.policy).tokens_per_second
