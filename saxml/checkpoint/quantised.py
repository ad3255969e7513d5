"""Matrices as int8, the way SAX stores them: symmetric, with a scale for each column.

An array w of int8 lies beside an array w_quantized_scale, and stands for w * scale. The scale has
the axes of w but those over which the product sums up (Param.contracted).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from saxml.common import errors

_SUFFIX = "_quantized_scale"
_LARGEST = 127

Array = np.ndarray[Any, Any]


def scale_name(name: str) -> str:
    """Name of the scales of an array."""
    return name + _SUFFIX


def column_scales(values: Array, contracted: Sequence[int]) -> Array:
    """f32 scales with which the largest magnitude of each column becomes 127; 1 where all of it is
    0."""
    largest = np.maximum(values.max(tuple(contracted)), -values.min(tuple(contracted)))
    scale = largest.astype(np.float32) / np.float32(_LARGEST)
    return np.where(scale == 0, np.float32(1), scale)


def quantise(values: Array, scale: Array, contracted: Sequence[int]) -> Array:
    """The int8 values that stand for these; what rounds to equal distances goes to the even one."""
    scaled = values.astype(np.float32) / np.expand_dims(scale, tuple(contracted))
    small: Array = np.clip(np.rint(scaled), -_LARGEST, _LARGEST).astype(np.int8)
    return small


def dequantise(values: Array, scale: Array, contracted: Sequence[int]) -> Array:
    """f32 of int8 values."""
    wide: Array = values.astype(np.float32)
    wide *= np.expand_dims(scale, tuple(contracted))
    return wide


def check_scale(scale: Array, where: str) -> None:
    """Raises FailedPreconditionError, which names `where`, for a scale that is not a positive
    number."""
    wrong = ~(np.isfinite(scale) & (scale > 0))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise errors.FailedPreconditionError(
            f"{where} has {scale[place]} at {list(place)}, and a scale is a positive number;"
            " quantise the model again with //tools/convert:quantize"
        )
