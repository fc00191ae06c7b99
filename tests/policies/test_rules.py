"""Stop rules: one decision and many agree; bad parameters are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from radar_rl.errors import ArtifactError, ConfigError, InputError
from radar_rl.policies import (
    CONTINUE,
    ConfidenceThreshold,
    DraftChain,
    EntropyBound,
    ExpectedGain,
    JointConfidence,
    LearnedPolicy,
    MemorylessPolicy,
    MinProbability,
    ObservationSpec,
    RandomStop,
    RenormalisedChain,
    StaticDepth,
    Svip,
)
from radar_rl.runtime.decoder import decide
from radar_rl.speculative.state import DraftState

SPEC = ObservationSpec(max_depth=4, top_k=3)


def network(seed: int = 0) -> LearnedPolicy:
    generator = np.random.default_rng(seed)
    shapes = [(8, SPEC.size), (2, 8)]
    layers = [
        (generator.normal(size=shape).astype(np.float32), generator.normal(size=shape[0]).astype(np.float32))
        for shape in shapes
    ]
    return LearnedPolicy("random network", SPEC, layers)


def depth_of_the_loop(policy: MemorylessPolicy, confidences: np.ndarray, features: dict[str, np.ndarray]) -> int:
    """As it is live: what comes after the newest call is not there yet."""
    depth = 1
    while depth < 4:
        seen = {name: np.where(np.arange(4) < depth, values.T, 0).T for name, values in features.items()}
        drafted = np.where(np.arange(4)[:, None] < depth, confidences, -np.inf)
        if policy.act(DraftState(0, depth, 4, drafted, features=seen)) != CONTINUE:
            break
        depth += 1
    return depth


RULES = [
    StaticDepth(1),
    StaticDepth(3),
    StaticDepth(9),
    ConfidenceThreshold(0.2),
    JointConfidence(0.3),
    MinProbability(0.4),
    DraftChain(most=2),
    DraftChain(0.3, most=3),
    RenormalisedChain(0.3, most=4),
    Svip(1.2),
    EntropyBound(0.5),
    ExpectedGain(300.0, (0.001, 0.001, 0.002)),
    network(1),
    network(2),
]


@given(
    arrays(np.float16, (6, 4, 3), elements=st.floats(-12, 0, width=16)),
    arrays(np.float16, (6, 4, 3), elements=st.floats(-12, 0, width=16)),
    arrays(np.float16, (6, 4), elements=st.floats(0, 8, width=16)),
    st.sampled_from(RULES),
)
def test_deciding_many_rows_is_deciding_each(
    confidences: np.ndarray, log_probs: np.ndarray, entropy: np.ndarray, policy: MemorylessPolicy
) -> None:
    features = {"log_probs": log_probs, "entropy": entropy, "top_mass": -entropy}
    each = [
        depth_of_the_loop(policy, row, {name: values[i] for name, values in features.items()})
        for i, row in enumerate(confidences)
    ]
    assert policy.stop_depths(confidences, features).tolist() == each


def test_the_threshold_looks_at_the_newest_levels_best_path() -> None:
    confidences = np.log(np.array([[[0.9, 0.1], [0.6, 0.3], [0.4, 0.1]]])).astype(np.float16)
    depths = [int(ConfidenceThreshold(t).stop_depths(confidences)[0]) for t in (0.95, 0.7, 0.5, 0.1)]
    assert depths == [1, 2, 3, 3]


def test_joint_confidence_adds_the_beam_up() -> None:
    confidences = np.log(np.array([[[0.5, 0.4], [0.3, 0.25], [0.2, 0.01]]])).astype(np.float16)
    depths = [int(JointConfidence(t).stop_depths(confidences)[0]) for t in (0.95, 0.6, 0.5, 0.3)]
    assert depths == [1, 2, 3, 3]


def test_p_min_looks_at_the_newest_token_alone() -> None:
    confidences = np.zeros((1, 3, 2), np.float16)
    log_probs = np.log(np.array([[[0.6, 0.3], [0.9, 0.1], [0.2, 0.1]]])).astype(np.float16)
    depths = [int(MinProbability(t).stop_depths(confidences, {"log_probs": log_probs})[0]) for t in (0.7, 0.5)]
    assert depths == [1, 3]


def test_a_chain_ends_at_its_length_or_after_an_improbable_token() -> None:
    confidences = np.zeros((1, 4, 2), np.float16)
    seen = {
        "log_probs": np.log(np.array([[[0.6, 0.3], [0.9, 0.1], [0.4, 0.1], [0.9, 0.1]]])).astype(np.float16),
        "top_mass": np.log(np.array([[0.6, 1.0, 0.5, 1.0]])).astype(np.float16),
    }
    depths = [int(DraftChain(t, most=n).stop_depths(confidences, seen)[0]) for t, n in ((0.7, 4), (0.5, 4), (0.5, 2))]
    assert depths == [1, 3, 2]
    # Among the ten best: 1, 0.9, 0.8, 0.9
    rules = [RenormalisedChain(t, most=n) for t, n in ((0.95, 4), (0.85, 4), (0.85, 2))]
    assert [int(rule.stop_depths(confidences, seen)[0]) for rule in rules] == [2, 3, 2]
    assert DraftChain(most=3).stop_depths(confidences)[0] == 3
    assert (DraftChain(most=3).features, DraftChain(most=3).pays_decisions) == ((), False)
    assert (DraftChain(0.5).features, DraftChain(0.5).pays_decisions) == (("log_probs",), True)


def test_entropy_rules_stop_where_the_newest_distribution_is_flat() -> None:
    confidences, entropy = np.zeros((1, 3, 2), np.float16), np.array([[0.25, 4.0, 0.0]], np.float16)
    # √H: 0.5, 2, 0
    assert [int(Svip(h).stop_depths(confidences, {"entropy": entropy})[0]) for h in (0.4, 1.0, 2.0)] == [1, 2, 3]
    # 1 − √(0.2 H): 0.78, 0.11, 1
    bounds = [int(EntropyBound(t).stop_depths(confidences, {"entropy": entropy})[0]) for t in (0.8, 0.5, 0.1)]
    assert bounds == [1, 2, 3]


def test_expected_gain_sets_the_next_levels_mass_against_its_seconds() -> None:
    masses = np.array([0.8, 0.6, 0.3, 0.3])
    confidences = np.log(np.stack((masses * 0.75, masses * 0.25), axis=1))[None].astype(np.float16)
    rule = ExpectedGain(100.0, (0.005, 0.004, 0.002))
    # B min(1, B / before): 0.8 · 0.8, 0.6 · 0.75, 0.3 · 0.5, over the seconds
    np.testing.assert_allclose(rule.levels(confidences, {})[0, :3], [128, 112.5, 75], rtol=2e-3)
    depths = [int(ExpectedGain(rate, rule.seconds).stop_depths(confidences)[0]) for rate in (130, 120, 100, 70)]
    assert depths == [1, 2, 3, 4]
    free = ExpectedGain(1e6, (0.0, -0.001, 0.002))  # a call that costs nothing, or less, is always worth it
    assert free.stop_depths(confidences)[0] == 3
    with pytest.raises(InputError, match="what 3 draft calls cost"):
        ExpectedGain(1.0, (0.1, 0.1)).stop_depths(confidences)


def test_a_random_policy_draws_by_text_and_position_whatever_came_before() -> None:
    states = [DraftState(position, 1 + position % 3, 4, np.zeros((4, 3), np.float16)) for position in range(50)]

    def chosen(policy: RandomStop, text: str | None) -> list[int]:
        policy.begin_sequence(text)
        return [policy.act(state) for state in states]

    policy = RandomStop(0.5, seed=4)
    first, second = chosen(policy, "one"), chosen(policy, "other")
    assert chosen(policy, "one") == first
    assert chosen(RandomStop(0.5, seed=4), "other") == second
    assert len({tuple(first), tuple(second), tuple(chosen(RandomStop(0.5, seed=5), "one"))}) == 3
    assert 5 < sum(first) < 45
    policy.begin_sequence("one")
    assert [policy.act(state) for state in reversed(states)] == first[::-1]
    assert chosen(policy, None) != chosen(policy, None)  # texts without names differ too


def test_bad_parameters_are_refused() -> None:
    for make in (
        lambda: StaticDepth(0),
        lambda: ConfidenceThreshold(1.5),
        lambda: RandomStop(-0.1),
        lambda: JointConfidence(float("nan")),
        lambda: MinProbability(-1),
        lambda: DraftChain(most=0),
        lambda: DraftChain(1.5),
        lambda: Svip(-0.5),
        lambda: ExpectedGain(0.0, (1.0,)),
        lambda: ExpectedGain(1.0, (float("inf"),)),
    ):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ArtifactError, match="do not lead"):
        LearnedPolicy("bad", SPEC, [(np.zeros((2, 5), np.float32), np.zeros(2, np.float32))])
    with pytest.raises(ArtifactError, match="not finite"):
        LearnedPolicy("bad", SPEC, [(np.full((2, SPEC.size), np.nan, np.float32), np.zeros(2, np.float32))])


def test_before_it_is_asked_a_policy_goes_on_without_a_look() -> None:
    def looked() -> np.ndarray:
        raise AssertionError("looked at")

    late = network().asking_from(3)
    early = [DraftState(5, depth, late.spec.max_depth, looked) for depth in (1, 2)]
    for state in early:
        assert late.act(state) == CONTINUE
        assert decide([late, late], [state, state]) == [CONTINUE, CONTINUE]
    with pytest.raises(AssertionError, match="looked at"):
        late.act(DraftState(5, 3, late.spec.max_depth, looked))
    rule = ConfidenceThreshold(1.0, asks_from=4)
    assert rule.act(DraftState(5, 3, 8, looked)) == CONTINUE
    assert (rule.stop_depths(np.full((2, 8, 10), -1, np.float16)) == 4).all()
