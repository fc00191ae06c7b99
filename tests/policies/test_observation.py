"""The observation: levels not drafted never show, live and stored numbers agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from radar_rl.errors import ConfigError, InputError
from radar_rl.policies import ObservationSpec

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


@given(st.integers(0, 10_000), st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_rows_of_a_buffer_become_call_by_call_what_is_built_at_once(seed: int, depths: list[int]) -> None:
    rng, spec, depth = np.random.default_rng(seed), EVERYTHING, np.array(depths)
    shapes = {"target": (2,), "mass": (3, 3), "entropy": (3,), "hidden": (3, 2), "log_probs": (3, 2)}
    features = {name: rng.normal(scale=9, size=(4, *shape)).astype(np.float16) for name, shape in shapes.items()}
    features["ngram"] = rng.integers(0, 6, size=4).astype(np.uint8)
    confidences = rng.normal(scale=9, size=(4, 3, 2)).astype(np.float16)
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
