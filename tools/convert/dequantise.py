"""Numbers of GGUF tensors, from the block formats of ggml to float32.

A block stands for 32 numbers of a row: Q4_0 and Q8_0 are scale * q, Q4_1 is scale * q + minimum
(ggml-common.h and ggml-quants.c).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from saxml.common import errors

Array = np.ndarray[Any, Any]
_BLOCK = 32


def _scale(blocks: Array, at: int) -> Array:
    scale: Array = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)
    wide: Array = scale.astype(np.float32)
    return wide


def _nibbles(packed: Array) -> Array:
    """u8[n, 16] -> u8[n, 32]: all low halves, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], 1)


def _q4_0(blocks: Array) -> Array:
    values = _nibbles(blocks[:, 2:]).astype(np.float32)
    values -= np.float32(8)
    values *= _scale(blocks, 0)
    return values


def _q4_1(blocks: Array) -> Array:
    values = _nibbles(blocks[:, 4:]).astype(np.float32)
    values *= _scale(blocks, 0)
    values += _scale(blocks, 2)
    return values


def _q8_0(blocks: Array) -> Array:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _scale(blocks, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """`block` numbers take `size` bytes; `expand` is None for plain numbers of `dtype`."""

    name: str
    block: int
    size: int
    dtype: np.dtype[Any]
    expand: Callable[[Array], Array] | None = None


_F32 = np.dtype(np.float32)
FORMATS = {
    0: Format("F32", 1, 4, _F32),
    1: Format("F16", 1, 2, np.dtype(np.float16)),
    2: Format("Q4_0", _BLOCK, 18, _F32, _q4_0),
    3: Format("Q4_1", _BLOCK, 20, _F32, _q4_1),
    8: Format("Q8_0", _BLOCK, 34, _F32, _q8_0),
    30: Format("BF16", 1, 2, np.dtype(ml_dtypes.bfloat16)),
}


def format_of(kind: int) -> Format:
    """A tensor type by its number in the file. Raises UnimplementedError for others."""
    if kind not in FORMATS:
        names = ", ".join(f.name for f in FORMATS.values())
        raise errors.UnimplementedError(f"type {kind} is not converted; {names} are")
    return FORMATS[kind]


def stored_bytes(kind: int, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes. Raises InvalidArgumentError when rows are not whole blocks."""
    form = format_of(kind)
    if shape[-1] % form.block:
        raise errors.InvalidArgumentError(
            f"rows of {shape[-1]} numbers are not whole blocks of {form.name}"
        )
    return math.prod(shape) // form.block * form.size


def dequantise(data: Array, kind: int, shape: tuple[int, ...]) -> Array:
    """u8[stored_bytes] -> numbers of `shape`; a view where the file has plain numbers."""
    form = format_of(kind)
    if form.expand is None:
        return data.view(form.dtype).reshape(shape)
    return form.expand(data.reshape(-1, form.size)).reshape(shape)
