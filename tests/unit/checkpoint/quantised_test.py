"""int8 and back: distances of at most half a scale, by the columns that products have."""

import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saxml.checkpoint import quantised
from saxml.common import errors


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.data(),
    st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
    st.integers(0, 2**31),
)
def test_each_value_is_within_half_a_scale_of_its_column(
    shape: list[int], data: st.DataObject, dtype: type, seed: int
) -> None:
    axes = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)
    contracted = tuple(sorted(data.draw(axes)))
    values: quantised.Array = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    scale = quantised.column_scales(values, contracted)
    small = quantised.quantise(values, scale, contracted)
    assert small.dtype == np.int8
    assert scale.shape == tuple(n for i, n in enumerate(shape) if i not in contracted)
    np.testing.assert_array_equal(np.abs(small.astype(int)).max(contracted), 127)
    back = quantised.dequantise(small, scale, contracted)
    # A little more than half: float32 rounds the quotient and the product.
    limit = 0.5001 * np.expand_dims(scale, contracted)
    assert (np.abs(back - values.astype(np.float32)) <= limit).all()
    np.testing.assert_allclose(quantised.column_scales(back, contracted), scale, rtol=1e-6)


def test_a_column_of_zeros_has_a_scale_that_is_a_number() -> None:
    values = np.array([[0.0, 2.0], [0.0, -254.0]], np.float32)
    scale = quantised.column_scales(values, (0,))
    np.testing.assert_array_equal(scale, [1.0, 2.0])
    np.testing.assert_array_equal(quantised.quantise(values, scale, (0,)), [[0, 1], [0, -127]])
    quantised.check_scale(scale, "array w")


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_are_none_are_named(wrong: float) -> None:
    scale = np.ones((2, 3), np.float32)
    scale[1, 2] = wrong
    with pytest.raises(
        errors.FailedPreconditionError, match=re.escape(f"array w has {wrong} at [1, 2], and a")
    ):
        quantised.check_scale(scale, "array w")
