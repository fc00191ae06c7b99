"""Policies with memory: hand-worked histories, and one text alone is many side by side."""

from collections.abc import Sequence

import numpy as np
import pytest

from radar_rl.errors import ConfigError
from radar_rl.policies import (
    CONTINUE,
    AcceptanceAverage,
    AdaEdl,
    ConfidenceThreshold,
    Exp3Spec,
    PlusTwo,
    StaticDepth,
    SwitchingPolicy,
    TapOut,
    UcbSpec,
)
from radar_rl.policies.random import text_key, uniform
from radar_rl.speculative.state import DraftState


def depth_of_round(policy: SwitchingPolicy, accepted: int, max_depth: int = 8) -> int:
    """Play a round at confidences and entropies of 0; ``accepted`` is cut to what was drafted."""
    features = {"entropy": np.zeros(max_depth, np.float16)}
    depth = 1
    while depth < max_depth:
        state = DraftState(0, depth, max_depth, np.zeros((max_depth, 2), np.float16), features=features)
        if policy.act(state) != CONTINUE:
            break
        depth += 1
    policy.end_round(depth, min(accepted, depth))
    return depth


def depths_of(policy: SwitchingPolicy, accepted: Sequence[int], text: str = "text") -> list[int]:
    policy.begin_sequence(text)
    return [depth_of_round(policy, n) for n in accepted]


def test_plus_two_goes_up_by_two_where_all_was_accepted_and_down_by_one_otherwise() -> None:
    policy = PlusTwo(start=3)
    assert depths_of(policy, [8, 8, 8, 2, 0]) == [3, 5, 7, 8, 7]
    assert depths_of(policy, [0, 0, 0, 1, 1]) == [3, 2, 1, 1, 3]


def test_the_average_moves_the_depth_at_the_intervals_of_the_schedule() -> None:
    # SGLang's defaults: ten rounds of warm-up, then every fifth.
    # 3 − 0.8¹⁵ is above 3 − 0.5 and at most 5 − 0.5; 5 − 2.04 · 0.8⁵ still is at most that, 5 − 2.04 · 0.8¹⁰ above.
    assert depths_of(AcceptanceAverage(start=3), [8] * 26) == [3] * 15 + [5] * 10 + [7]
    low = depths_of(AcceptanceAverage(start=7, warmup=0, interval=1), [0] * 12)
    # 6 · 0.8ⁿ at most 5 − 0.5 − 0.25, 3 − 0.75, 1 − 0.75: after 2, 5 and 15 rounds.
    assert low == [7, 7, 5, 5, 5, 3, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(("up", "down"), [(0.0, -0.25), (0.5, 0.0), (-0.5, -1.0)])
def test_the_average_walks_down_or_else_up_the_candidates(up: float, down: float) -> None:
    candidates = (1, 2, 4, 7)
    policy = AcceptanceAverage(2, candidates, alpha=1.0, interval=1, warmup=0, up=up, down=down)
    for average in range(8):
        for first in range(4):
            expected = first
            while expected > 0 and average <= candidates[expected - 1] - 0.5 + down:
                expected -= 1
            if expected == first:
                while expected < 3 and average > candidates[expected] - 0.5 + up:
                    expected += 1
            policy.begin_texts(["text"])
            text = np.zeros(1, np.int64)
            policy.learn(text, np.array([first]), np.array([7]), np.array([average]))
            assert policy.choose(text)[0] == expected


def test_adaedl_steers_its_threshold_as_algorithm_1_does() -> None:
    policy = AdaEdl(threshold=0.5, target=0.85, max_depth=4)
    policy.begin_texts(["text"])
    text = np.zeros(1, np.int64)
    for accepted, drafted, rate, threshold in (
        (4, 4, 0.925, 0.5),  # at the target and all of L: stays
        (1, 4, 0.5875, 0.501),  # below the target
        (4, 4, 0.79375, 0.502),
        (3, 3, 0.896875, 0.501),  # above the target, but not all of L
    ):
        policy.learn(text, policy.choose(text), np.array([drafted]), np.array([accepted]))
        assert policy.choose(text)[0] == pytest.approx(threshold, abs=1e-12)
        assert policy._rates[0] == pytest.approx(rate, abs=1e-12)


def test_ucbspec_tries_every_depth_and_then_trusts_the_papers_bound() -> None:
    policy = UcbSpec(max_depth=3, delta=0.1)
    policy.begin_texts(["text"])
    text = np.zeros(1, np.int64)
    for arm, accepted in ((0, 1), (1, 0), (2, 3)):
        assert policy.choose(text)[0] == arm
        policy.learn(text, np.array([arm]), np.array([arm + 1]), np.array([accepted]))
    # equal radii: the best mean (4 tokens)
    assert policy.choose(text)[0] == 2
    radius = policy.radius(np.array([[1, 1, 2]]))[0]
    expected = [1.5 * np.sqrt((1 + n) / n**2 * (1 + 2 * np.log(3 * 16 * np.sqrt(1 + n) / 0.1))) for n in (1, 1, 2)]
    np.testing.assert_allclose(radius, expected)


def test_ucbspec_with_seconds_prefers_throughput() -> None:
    by_tokens, by_throughput = UcbSpec(2, scale=0.0), UcbSpec(2, scale=0.0, seconds=(1.0, 4.0))
    for policy in (by_tokens, by_throughput):
        depths_of(policy, [1, 2])
    assert depth_of_round(by_tokens, 0, 2) == 2  # 3 tokens against 2
    assert depth_of_round(by_throughput, 0, 2) == 1  # 3 / 4 s against 2 / 1 s


def test_exp3spec_draws_by_the_papers_weights_the_same_in_any_order() -> None:
    policy = Exp3Spec(max_depth=2, seed=3)
    policy.begin_texts(["a", "b"])
    both = np.arange(2)
    np.testing.assert_allclose(policy.probabilities(both), 0.5)
    policy.learn(both, np.array([0, 1]), np.array([1, 2]), np.array([0, 1]))
    eta = np.sqrt(np.log(2) / (2 * 2))
    losses = np.array([[1 / 0.5, 0.0], [0.0, 0.5 / 0.5]])  # (L + 1 − emitted) / (L p)
    weights = np.exp(-eta * losses)
    np.testing.assert_allclose(policy.probabilities(both), weights / weights.sum(axis=1, keepdims=True))
    texts = ["a", "b", "c"]
    forth = {text: depths_of(Exp3Spec(seed=1), [2] * 30, text) for text in texts}
    policy = Exp3Spec(seed=1)
    assert {text: depths_of(policy, [2] * 30, text) for text in reversed(texts)} == forth
    assert len({tuple(depths) for depths in forth.values()}) == 3
    assert depths_of(Exp3Spec(seed=2), [2] * 30, "a") != forth["a"]
    assert {d for depths in forth.values() for d in depths} == set(range(1, 9))


def test_random_numbers_are_uniform_and_a_function_of_key_and_count() -> None:
    keys = np.full(20_000, text_key(0, "text"), np.uint64)
    drawn = uniform(keys, np.arange(20_000))
    assert np.array_equal(drawn[5:7], uniform(keys[:2], np.array([5, 6])))
    assert drawn.min() >= 0 and drawn.max() < 1  # noqa: PT018
    assert np.histogram(drawn, 10, (0, 1))[0].min() > 1800
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03


def test_tapout_plays_the_rule_with_the_best_blend_and_goes_on_with_it() -> None:
    policy = TapOut((StaticDepth(8), StaticDepth(2), ConfidenceThreshold(0.5)))
    first = depths_of(policy, [2] * 40)
    assert first[:3] == [8, 2, 8]  # each once; confidences of 0 are certainties
    # two accepted of eight: (2/8 + 2/8) / 2; of two: (2/8 + 2/2) / 2
    assert depths_of(policy, [2] * 200).count(2) > 120
    assert depths_of(policy, [2] * 5)[:2] == [2, 2]  # the next text knows
    anew = TapOut((StaticDepth(8), StaticDepth(2)), across=False)
    assert depths_of(anew, [2] * 5)[:2] == depths_of(anew, [2] * 5)[:2] == [8, 2]
    assert policy.pays_decisions
    assert not anew.pays_decisions


def test_rounds_without_draft_calls_teach_nothing_and_single_ones_do() -> None:
    policy = PlusTwo(start=2)
    policy.begin_sequence("text")
    policy.end_round(0, 3)
    assert depth_of_round(policy, 0) == 2
    policy.begin_sequence("text")
    policy.end_round(1, 0)  # where max_depth is 1, nobody asks
    assert depth_of_round(policy, 0) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: PlusTwo(0),
        lambda: PlusTwo(9, 8),
        lambda: AcceptanceAverage(candidates=()),
        lambda: AcceptanceAverage(candidates=(3, 1)),
        lambda: AcceptanceAverage(interval=0),
        lambda: AdaEdl(threshold=float("nan")),
        lambda: AdaEdl(gamma=0),
        lambda: UcbSpec(delta=0),
        lambda: UcbSpec(2, seconds=(1.0,)),
        lambda: Exp3Spec(scale=-1),
        lambda: TapOut(()),
        lambda: TapOut((PlusTwo(),)),
    ],
)
def test_bad_parameters_are_refused(make) -> None:
    with pytest.raises(ConfigError):
        make()
