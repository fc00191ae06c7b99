import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_trace import HARDWARE, make_trace, with_features

from radar_rl.errors import TraceError
from radar_rl.offline.walk import Outcomes, policy_depths, walk, walk_oracle, walk_policy
from radar_rl.policies import (
    AcceptanceAverage,
    AdaEdl,
    ConfidenceThreshold,
    Exp3Spec,
    JointConfidence,
    MemorylessPolicy,
    MinProbability,
    PlusTwo,
    StaticDepth,
    Svip,
    SwitchingPolicy,
    TapOut,
    UcbSpec,
)
from radar_rl.policies.observation import ObservationSpec
from radar_rl.policies.protocol import CONTINUE, STOP, States
from radar_rl.rollouts.acting import Slot, act_on, joined
from radar_rl.rollouts.payments import Payments
from radar_rl.rollouts.reward import Reward
from radar_rl.rollouts.sessions import ReplayTexts
from radar_rl.rollouts.trace import Trace
from radar_rl.speculative.state import DraftState


class Remembering:
    """A rule without the vectorised base, led through all texts; counts what it is told."""

    name, pays_decisions, asks_from, remembers = "remembering", True, 1, True
    sequences = accepted = 0  # of the class, as walks leave the policy as it came

    def __init__(self, rule: MemorylessPolicy) -> None:
        self.rule = rule

    def begin_sequence(self, text: str | None = None) -> None:
        Remembering.sequences += 1

    def act(self, state):
        return self.rule.act(state)

    def end_round(self, draft_calls: int, accepted: int) -> None:
        Remembering.accepted += accepted


def by_hand(outcomes: Outcomes, depths: np.ndarray, text: int) -> dict[str, float]:
    """One text, one round after the other, from the definitions."""
    rows = np.flatnonzero(outcomes.trace.sequence == text)
    totals = dict.fromkeys(("emitted", "seconds", "rounds", "draft_calls", "accepted", "decisions"), 0.0)
    row = rows[0] if len(rows) else None
    while row is not None:
        depth = int(depths[row])
        accepted = int(outcomes.accepted[row, depth - 1])
        decisions = min(depth, 7)
        left = int(outcomes.trace.sequences.length[text] - 1 - outcomes.trace.position[row])
        totals["emitted"] += min(accepted + 1, left)
        totals["accepted"] += accepted
        totals["rounds"] += 1
        totals["draft_calls"] += depth
        totals["decisions"] += decisions
        nodes = [11, 60][depth > 1]
        totals["seconds"] += depth * 0.001 + HARDWARE.verify(nodes) + 0.0002 + decisions * 0.00001
        row = row + min(accepted + 1, left) if accepted + 1 < left else None
    return totals


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_walk_is_the_round_by_round_replay_and_the_text_does_not_depend_on_it(outcomes: Outcomes, seed: int) -> None:
    depths = np.random.default_rng(seed).integers(1, 9, size=len(outcomes.trace))
    run = walk(outcomes, depths, pays_decisions=True)
    for text in (0, 7, 23):
        expected = by_hand(outcomes, depths, text)
        assert {name: getattr(run, name)[text] for name in expected} == pytest.approx(expected)
    texts = outcomes.trace.sequences
    np.testing.assert_array_equal(run.emitted, texts.length - texts.prompt_length - 1)
    # Nothing beats the oracle.
    assert (walk_oracle(outcomes).seconds <= run.seconds + 1e-12).all()


def test_decisions_cost_only_those_who_decide(outcomes: Outcomes) -> None:
    depths = np.full(len(outcomes.trace), 8)
    free, paid = walk(outcomes, depths, pays_decisions=False), walk(outcomes, depths, pays_decisions=True)
    assert free.decisions.sum() == 0
    np.testing.assert_array_equal(paid.decisions, 7 * paid.rounds)
    np.testing.assert_allclose(paid.seconds - free.seconds, 7 * paid.rounds * HARDWARE.decide_seconds)


def test_a_policy_with_memory_is_led_through_the_texts(outcomes: Outcomes) -> None:
    rule = ConfidenceThreshold(0.2)
    remembering = Remembering(rule)
    Remembering.sequences = Remembering.accepted = 0
    together, led = walk_policy(outcomes, rule), walk_policy(outcomes, remembering)
    np.testing.assert_allclose(led.seconds, together.seconds)
    np.testing.assert_array_equal(led.draft_calls, together.draft_calls)
    assert remembering.sequences == len(outcomes.trace.first_row)
    assert remembering.accepted == together.accepted.sum()


class Deeper:
    """A call more in each round, whatever text it is in."""

    name, pays_decisions, asks_from, calls = "deeper", False, 1, 0

    def begin_sequence(self, text: str | None = None) -> None:
        """Nothing is forgotten."""

    def act(self, state: DraftState) -> int:
        return CONTINUE if state.depth <= self.calls else STOP

    def end_round(self, draft_calls: int, accepted: int) -> None:
        self.calls += 1


class LookingBack(MemorylessPolicy):
    """As many calls as the last round accepted tokens, and one more."""

    name, features = "looking-back", ("history",)

    def continues(self, states: States) -> np.ndarray:
        return np.asarray(states.depth <= states.features["history"][:, 0])


def test_each_text_has_a_copy_of_a_policy_with_memory(outcomes: Outcomes) -> None:
    policy = Deeper()
    assert (policy_depths(outcomes, policy)[outcomes.trace.first_row] == 1).all()
    assert policy.calls == 0
    spec, payments = ObservationSpec(), Payments.of(HARDWARE, Reward(), max_depth=8, top_k=10, tree_size=60)
    texts = ReplayTexts(outcomes.trace)
    slots = [Slot(index) for index in range(len(texts))]
    logged = joined(act_on(texts, slots, policy, spec=spec, payments=payments))
    assert logged["draft_seconds"].sum() == pytest.approx(0.001 * walk_policy(outcomes, policy).draft_calls.sum())


@pytest.mark.parametrize("across", [True, False])
def test_a_walk_leaves_a_bandit_with_an_arm_that_looks_back_as_it_came(outcomes: Outcomes, across: bool) -> None:
    bandit = TapOut((StaticDepth(2), LookingBack(), StaticDepth(8)), across=across)
    first = policy_depths(outcomes, bandit)
    assert bandit._begun == 0
    np.testing.assert_array_equal(policy_depths(outcomes, bandit), first)


def test_figures_are_totals_not_means_of_ratios(outcomes: Outcomes) -> None:
    run = walk_policy(outcomes, StaticDepth(3))
    assert run.tokens_per_second == run.emitted.sum() / run.seconds.sum()
    assert run.acceptance_length == run.emitted.sum() / run.rounds.sum()
    assert run.draft_calls_per_round == 3
    some = run.of_sequences(np.arange(24) < 5)
    assert some.emitted.sum() == run.emitted[:5].sum()


def test_a_text_without_rows_counts_nothing() -> None:
    trace = make_trace(prompts=3, new_tokens=10)
    texts = trace.sequences
    one_token = texts.length.copy()
    one_token[1] = texts.prompt_length[1] + 1
    keep = trace.sequence != 1
    arrays = ("sequence", "position", "confidences", "accepted", "ranks", "censored")
    short = replace(
        trace,
        sequences=replace(texts, length=one_token),
        **{name: getattr(trace, name)[keep] for name in arrays},
    )
    run = walk_policy(Outcomes.of(short, HARDWARE), StaticDepth(2))
    assert run.rounds[1] == run.emitted[1] == 0
    assert run.rounds[0] > 0
    assert run.rounds[2] > 0


def test_depths_of_rows_that_are_never_reached_do_not_matter(outcomes: Outcomes) -> None:
    depths = policy_depths(outcomes, Remembering(StaticDepth(8)))
    assert (depths == 8).all()


def test_a_smaller_tree_accepts_no_more_and_costs_less(outcomes: Outcomes) -> None:
    small = Outcomes.of(outcomes.trace.at(20), HARDWARE)  # type: ignore[attr-defined]
    assert (small.accepted <= outcomes.accepted).all()
    assert (small.accepted < outcomes.accepted).any()
    assert small.seconds[-1] < outcomes.seconds[-1]


def test_nothing_to_replay_is_refused(outcomes: Outcomes) -> None:
    nothing = outcomes.trace.select(np.zeros(24, dtype=bool))
    with pytest.raises(TraceError, match="no rows"):
        Outcomes.of(nothing, HARDWARE)


class Led:
    """A policy of which nobody knows that it could be led through many texts at once."""

    def __init__(self, policy: SwitchingPolicy) -> None:
        self.policy, self.name, self.pays_decisions = policy, policy.name, policy.pays_decisions
        self.asks_from, self.remembers = policy.asks_from, policy.remembers
        self.begin_sequence, self.act, self.end_round = policy.begin_sequence, policy.act, policy.end_round


RULES: list[SwitchingPolicy] = [
    PlusTwo(3),
    AcceptanceAverage(3, (1, 3, 5, 7), interval=1, warmup=2),
    AdaEdl(0.2, gamma=0.02, step=0.5),
    UcbSpec(scale=0.05),
    UcbSpec(scale=0.02, seconds=tuple(np.linspace(1, 2, 8))),
    Exp3Spec(scale=4.0, seed=2),
    TapOut((StaticDepth(2), JointConfidence(0.3), MinProbability(0.01), Svip(3.5)), across=False),
    TapOut((StaticDepth(2), JointConfidence(0.3), Svip(3.5))),
]


@pytest.mark.parametrize("policy", RULES, ids=lambda policy: f"{policy.name}-{policy.remembers}")
@pytest.mark.parametrize("seed", [0, 1])
def test_texts_led_side_by_side_are_texts_led_alone(
    policy: SwitchingPolicy, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = with_features(make_trace(prompts=9, new_tokens=60, seed=seed), seed=seed)
    outcomes = Outcomes.of(trace, HARDWARE)
    monkeypatch.setattr(Trace.pieces, "__defaults__", (130,))  # several pieces
    together = policy_depths(outcomes, policy)
    alone = policy_depths(outcomes, Led(copy.deepcopy(policy)))
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together)) > 1
    np.testing.assert_array_equal(policy_depths(outcomes, policy), together)  # a walk leaves the policy as it came


def test_a_switching_policy_needs_its_features(outcomes: Outcomes) -> None:
    with pytest.raises(TraceError, match="entropy"):
        policy_depths(outcomes, AdaEdl())
