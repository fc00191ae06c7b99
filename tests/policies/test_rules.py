"""Stop rules: one decision and many agree; bad parameters are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from radar_rl.errors import ArtifactError, ConfigError
from radar_rl.policies import (
    CONTINUE,
    ConfidenceThreshold,
    LearnedPolicy,
    MemorylessPolicy,
    ObservationSpec,
    RandomStop,
    StaticDepth,
)
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


def depth_of_the_loop(policy: MemorylessPolicy, confidences: np.ndarray) -> int:
    depth = 1
    while depth < 4 and policy.act(DraftState(0, depth, 4, confidences)) == CONTINUE:
        depth += 1
    return depth


@given(
    arrays(np.float16, (6, 4, 3), elements=st.floats(-12, 0, width=16)),
    st.sampled_from([StaticDepth(1), StaticDepth(3), StaticDepth(9), ConfidenceThreshold(0.2), network(1), network(2)]),
)
def test_deciding_many_rows_is_deciding_each(confidences: np.ndarray, policy: MemorylessPolicy) -> None:
    assert policy.stop_depths(confidences).tolist() == [depth_of_the_loop(policy, row) for row in confidences]


def test_the_threshold_looks_at_the_newest_levels_best_path() -> None:
    confidences = np.log(np.array([[[0.9, 0.1], [0.6, 0.3], [0.4, 0.1]]])).astype(np.float16)
    depths = [int(ConfidenceThreshold(t).stop_depths(confidences)[0]) for t in (0.95, 0.7, 0.5, 0.1)]
    assert depths == [1, 2, 3, 3]


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
    for make in (lambda: StaticDepth(0), lambda: ConfidenceThreshold(1.5), lambda: RandomStop(-0.1)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ArtifactError, match="do not lead"):
        LearnedPolicy("bad", SPEC, [(np.zeros((2, 5), np.float32), np.zeros(2, np.float32))])
    with pytest.raises(ArtifactError, match="not finite"):
        LearnedPolicy("bad", SPEC, [(np.full((2, SPEC.size), np.nan, np.float32), np.zeros(2, np.float32))])
