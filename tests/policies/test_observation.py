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
