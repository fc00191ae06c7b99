"""The observation: levels not drafted never show, live and stored numbers agree."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from radar_rl.errors import ConfigError, InputError
from radar_rl.policies import ObservationSpec
from radar_rl.policies.observation import WORTH_TORCH
from radar_rl.speculative.state import DraftState

SPEC = ObservationSpec(max_depth=3, top_k=2)
CONFIDENCES = arrays(np.float16, (4, 3, 2), elements=st.floats(-60, 0, width=16))


@given(CONFIDENCES, CONFIDENCES, st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_levels_above_the_depth_do_not_matter(confidences: np.ndarray, others: np.ndarray, depths: list[int]) -> None:
    depth = np.array(depths)
    later = np.arange(3)[None, :, None] >= depth[:, None, None]
    assert np.array_equal(SPEC.build(confidences, depth), SPEC.build(np.where(later, others, confidences), depth))


def test_layout_floor_and_padding() -> None:
    confidences = np.array([[[-1.0, -2.0], [-3.0, -np.inf], [-4.0, -5.0]]], dtype=np.float16)
    expected = [-1.0, -2.0, -3.0, -20.0, -20.0, -20.0, 2 / 3]
    np.testing.assert_allclose(SPEC.build(confidences, np.array([2]))[0], expected, rtol=1e-6)
    assert SPEC.size == 7


EVERYTHING = ObservationSpec(
    max_depth=3,
    top_k=2,
    features=("target", "mass", "depth", "entropy", "confidences", "hidden", "ngram", "log_probs"),
    floor=-7.3,  # no float16
    feature_dim=2,
)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 3), min_size=4, max_size=4), st.sampled_from([None, 1, 2, 3]))
def test_rows_of_a_buffer_become_call_by_call_what_is_built_at_once(
    seed: int, depths: list[int], newest: int | None
) -> None:
    rng, spec, depth = np.random.default_rng(seed), replace(EVERYTHING, newest=newest), np.array(depths)
    confidences, _, features = random_states(4, seed)
    per_call = {part.name for part in spec.parts if part.per_call}

    buffer = rng.normal(size=(6, spec.size)).astype(np.float32)
    untouched, rows = buffer[[0, 3]].copy(), np.array([5, 1, 4, 2])
    spec.begin_rows(buffer, rows, {name: values for name, values in features.items() if name not in per_call})
    for call in (1, 2, 3):
        some = np.flatnonzero(depth >= call)
        newest = {name: features[name][some, call - 1] for name in per_call & set(features)}
        spec.add_calls(buffer, rows[some], np.full(len(some), call), confidences[some, call - 1], newest)
    built = spec.build(confidences, depth, features)
    assert np.array_equal(buffer[rows], built)
    assert np.array_equal(buffer[[0, 3]], untouched)
    assert spec.spread("low").shape == (spec.size,)
    assert (spec.spread("low") <= built).all()
    assert (built <= spec.spread("high")).all()


@pytest.mark.parametrize(("shown", "newest"), [(None, 1), (None, 2), (None, 3), (3, 2), (3, 1), (2, 2)])
def test_an_observation_can_be_narrowed_to_fewer_newest_calls(shown: int | None, newest: int) -> None:
    confidences, depth, features = random_states(50, seed=1)
    wide = replace(EVERYTHING, newest=shown)
    spec, narrow = wide.narrowed(wide.build(confidences, depth, features), depth, newest)
    assert spec == replace(EVERYTHING, newest=newest)
    np.testing.assert_array_equal(narrow, spec.build(confidences, depth, features))


def test_an_observation_has_no_more_calls_than_it_shows() -> None:
    two = replace(EVERYTHING, newest=2)
    with pytest.raises(ConfigError, match="newest: the observations show 2 draft calls, got 3"):
        two.narrowed(np.zeros((1, two.size), np.float32), np.array([3]), 3)


@pytest.mark.parametrize("floor", [0.5, np.nan, np.inf, -np.inf, -1e39])
def test_a_floor_is_a_log_probability(floor: float) -> None:
    with pytest.raises(ConfigError, match="floor: expected a finite log-probability"):
        ObservationSpec(floor=floor)


def random_states(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = {"target": (2,), "mass": (3, 3), "entropy": (3,), "hidden": (3, 2), "log_probs": (3, 2)}
    features = {name: rng.normal(scale=9, size=(count, *shape)).astype(np.float16) for name, shape in shapes.items()}
    features["ngram"] = rng.integers(0, 6, size=count).astype(np.uint8)
    confidences = rng.normal(scale=9, size=(count, 3, 2)).astype(np.float16)
    confidences[rng.random(confidences.shape) < 0.05] = -np.inf
    return confidences, rng.integers(1, 4, size=count).astype(np.int8), features


def test_many_states_at_once_are_seen_as_each_alone() -> None:
    confidences, depth, features = random_states(2 * WORTH_TORCH, seed=3)
    many = EVERYTHING.build(confidences, depth, features)
    for i in range(0, len(depth), 37):
        here = slice(i, i + 1)
        alone = EVERYTHING.build(confidences[here], depth[here], {name: x[here] for name, x in features.items()})
        np.testing.assert_array_equal(alone[0], many[i])
    # NaN in some calls not made changes nothing, not even the way there.
    confidences[depth < 3, 2] = np.nan
    confidences.flags.writeable = False
    np.testing.assert_array_equal(EVERYTHING.build(confidences, depth, features), many)


def test_rows_of_a_buffer_refuse_what_build_refuses() -> None:
    buffer, rows, depth = np.zeros((2, EVERYTHING.size), dtype=np.float32), np.array([1]), np.array([2])
    confidences = np.full((1, 2), np.nan, dtype=np.float16)
    with pytest.raises(InputError, match="'target', which is not at hand"):
        EVERYTHING.begin_rows(buffer, rows, {"ngram": np.zeros(1, dtype=np.uint8)})
    with pytest.raises(InputError, match="target: expected 2 numbers a state"):
        EVERYTHING.begin_rows(buffer, rows, {"target": np.zeros((1, 3), dtype=np.float16)})
    with pytest.raises(InputError, match="NaN"):
        EVERYTHING.begin_rows(buffer, rows, {"target": np.full((1, 2), np.nan, dtype=np.float16)})
    with pytest.raises(InputError, match="'mass', which is not at hand"):
        EVERYTHING.add_calls(buffer, rows, depth, confidences)
    with pytest.raises(InputError, match="NaN"):
        SPEC.add_calls(np.zeros((2, SPEC.size), dtype=np.float32), rows, depth, confidences)


def test_nan_in_a_drafted_level_is_refused_and_ignored_elsewhere() -> None:
    confidences = np.zeros((1, 3, 2), dtype=np.float16)
    confidences[0, 1, 0] = np.nan
    SPEC.build(confidences, np.array([1]))
    with pytest.raises(InputError, match="NaN"):
        SPEC.build(confidences, np.array([2]))


def test_bad_shapes_and_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected \[N, 3, 2\]"):
        SPEC.build(np.zeros((1, 8, 10), dtype=np.float16), np.array([1]))
    with pytest.raises(ConfigError, match="valid: confidences, depth"):
        ObservationSpec(features=("confidence",))


def test_json_round_trip_keeps_the_digest() -> None:
    again = ObservationSpec.from_json(SPEC.to_json())
    assert again == SPEC
    assert again.digest == SPEC.digest
    assert ObservationSpec(max_depth=4, top_k=2).digest != SPEC.digest
    with pytest.raises(ConfigError, match="expected keys"):
        ObservationSpec.from_json({"max_depth": 3})


def test_features_lie_in_the_order_asked_for() -> None:
    spec = ObservationSpec(2, 3, ("mass", "ngram", "confidences", "target", "entropy"), floor=-5.0, feature_dim=2)
    assert [(part.name, part.start, part.width, part.per_call) for part in spec.parts] == [
        ("mass", 0, 2, True),
        ("ngram", 4, 1, False),
        ("confidences", 5, 3, True),
        ("target", 11, 2, False),
        ("entropy", 13, 1, True),
    ]
    assert spec.size == 15
    features = {
        "mass": np.array([[[0.5, 7.0], [0.25, 0.125]]], np.float16),
        "ngram": np.array([4], np.uint8),
        "target": np.array([[3.0, -400.0]], np.float16),
        "entropy": np.array([[9.0, 1.0]], np.float16),
    }
    confidences = np.array([[[-1, -2, -9], [-3, -4, -5]]], np.float16)
    drafted = [0.5, 1.0, 0.25, 0.125, 4, -1, -2, -5, -3, -4, -5, 3, -400, 5, 1]
    np.testing.assert_array_equal(spec.build(confidences, np.array([2]), features)[0], drafted)
    shallow = [0.5, 1.0, 0, 0, 4, -1, -2, -5, -5, -5, -5, 3, -400, 5, 0]
    np.testing.assert_array_equal(spec.build(confidences, np.array([1]), features)[0], shallow)
    assert (spec.spread("low") <= shallow).all()
    assert (spec.spread("high") >= shallow).all()
    apart = ObservationSpec(2, 3, ("log_probs",), floor=-5.0)
    log_probs = {"log_probs": np.array([[[-1, -2, -9], [-3, -4, -4]]], np.float16)}
    np.testing.assert_array_equal(apart.build(confidences, np.array([1]), log_probs)[0], [-1, -2, -5, -5, -5, -5])
    state = DraftState(7, 1, 2, confidences[0], features={name: values[0] for name, values in features.items()})
    np.testing.assert_array_equal(spec.observe([state, state])[1], shallow)


def test_features_that_are_not_at_hand_are_named() -> None:
    spec = ObservationSpec(3, 2, ("confidences", "entropy"))
    confidences = np.zeros((1, 3, 2), np.float16)
    with pytest.raises(InputError, match=r"feature 'entropy', which is not at hand \(there are: none\)"):
        spec.build(confidences, np.array([1]))
    with pytest.raises(InputError, match="entropy: expected 3 numbers a state"):
        spec.build(confidences, np.array([1]), {"entropy": np.zeros((1, 4), np.float16)})
    with pytest.raises(InputError, match="NaN"):
        spec.build(confidences, np.array([2]), {"entropy": np.array([[0, np.nan, 0]], np.float16)})
    spec.build(confidences, np.array([1]), {"entropy": np.array([[0, np.nan, 0]], np.float16)})
    with pytest.raises(ConfigError, match="valid: confidences, depth, entropy, margin"):
        ObservationSpec(features=("confidences", "entropie"))
    with pytest.raises(ConfigError, match="each once"):
        ObservationSpec(features=("depth", "depth"))
    with pytest.raises(ConfigError, match="feature_dim"):
        ObservationSpec(features=("hidden",))


def test_the_newest_calls_stand_first() -> None:
    spec = ObservationSpec(3, 2, ("entropy", "depth", "confidences", "ngram"), floor=-5.0, newest=2)
    assert spec.size == 2 + 1 + 4 + 1
    confidences = np.array([[[-1, -2], [-3, -4], [-4.5, -6]]], np.float16)
    features = {"entropy": np.array([[0.25, 0.5, 0.75]], np.float16), "ngram": np.array([3], np.uint8)}
    for depth, expected in {
        1: [0.25, 0, 1 / 3, -1, -2, -5, -5, 3],
        2: [0.5, 0.25, 2 / 3, -3, -4, -1, -2, 3],
        3: [0.75, 0.5, 1, -4.5, -5, -3, -4, 3],
    }.items():
        np.testing.assert_allclose(spec.build(confidences, np.array([depth]), features)[0], expected, rtol=1e-6)
    damaged = np.where(np.arange(3)[None, :, None] == 1, np.nan, confidences).astype(np.float16)
    spec.build(damaged, np.array([1]), features)  # of a call not made
    with pytest.raises(InputError, match="NaN"):
        spec.build(damaged, np.array([2]), features)
    assert ObservationSpec.from_json(spec.to_json()) == spec
    assert spec.digest != replace(spec, newest=None).digest
    for wrong in (0, 4):
        with pytest.raises(ConfigError, match=r"newest: expected 1 … max_depth \(3\)"):
            ObservationSpec(3, 2, newest=wrong)


def test_projections_are_part_of_the_layout_only_where_they_count() -> None:
    plain = ObservationSpec(3, 2, feature_seed=5)
    assert set(plain.to_json()) == {"max_depth", "top_k", "features", "floor"}
    assert plain.digest == SPEC.digest
    projected = ObservationSpec(3, 2, ("hidden", "depth"), feature_dim=4, feature_seed=5)
    assert ObservationSpec.from_json(projected.to_json()) == projected
    assert projected.digest != ObservationSpec(3, 2, ("hidden", "depth"), feature_dim=4).digest
