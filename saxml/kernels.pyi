"""
CPU kernels of saxml.ops: handlers for jax.ffi, and weights packed for them.
"""

from __future__ import annotations

import numpy
import numpy.typing
import typing_extensions

__all__: list[str] = [
    "column_scales",
    "handlers",
    "head_page_units",
    "level",
    "levels",
    "pack",
    "packed_units",
    "place_scales",
    "set_level",
]

def column_scales(
    scale: numpy.typing.NDArray[numpy.float32],
    depth: int,
    columns: int,
    values: numpy.ndarray,
    first_column: int = 0,
    layout: str = "plain",
) -> None:
    """
    Raise scale[c], f32[columns to a multiple of 32], to what int8 needs for these values.
    """

def handlers() -> dict[str, typing_extensions.CapsuleType]:
    """
    The handlers by the names under which jax.ffi is to know them.
    """

def head_page_units(element: str, head_dim: int, page_size: int) -> int:
    """
    Units of 32 bits of one page of one layer for one kv head.
    """

def level() -> str:
    """
    The level in use.
    """

def levels() -> list[str]:
    """
    Levels that this CPU has, the best last.
    """

def pack(
    packed: numpy.typing.NDArray[numpy.uint32],
    element: str,
    depth: int,
    columns: int,
    values: numpy.ndarray,
    first_row: int = 0,
    first_column: int = 0,
    layout: str = "plain",
    scale: numpy.typing.NDArray[numpy.float32] | None = None,
) -> None:
    """
    Write a block of a matrix into packed u32[packed_units], which was zero at first.

    values: f32[rows, columns], or bfloat16 seen as uint16, with any strides; in a matrix of
    int8 also int8, which is kept as it is. layout "gate" and "up": the two halves of columns
    that are multiplied with each other. int8 needs the scale of column_scales or place_scales.
    ValueError for what does not lie inside.
    """

def packed_units(element: str, depth: int, columns: int) -> int:
    """
    Units of 32 bits of a packed matrix; element is float32, bfloat16 or int8.
    """

def place_scales(
    scale: numpy.typing.NDArray[numpy.float32],
    columns: int,
    own: numpy.typing.NDArray[numpy.float32],
    first_column: int = 0,
    layout: str = "plain",
) -> None:
    """
    Set scale[c], f32[columns to a multiple of 32], to own f32[n] of n columns.
    """

def set_level(name: str) -> None:
    """
    Have kernels use this level. ValueError for one that this CPU has not.
    """
