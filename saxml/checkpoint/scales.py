"""Reads and checks the scales of int8 arrays, see quantised.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from saxml.checkpoint import layout, quantised
from saxml.checkpoint.folder import Folder, translated
from saxml.common import errors
from saxml.models.params import Param

Array = np.ndarray[Any, Any]
_AGAIN = "quantise the model again with //tools/convert:quantize"


def read_scales(
    folder: Folder, param: Param, names: Sequence[str], stores: Sequence[Any]
) -> list[Array | None]:
    """For each layer the scales f32 of its array, None where that is not int8. Axes that the
    product sums up have length 1; what a vocabulary of the declaration has more gets 1.

    Raises NotFoundError for an array without scales, FailedPreconditionError for int8 values of
    what is no matrix, and for scales of another shape or type, or that are no positive numbers.
    """
    layers = list(zip(names, stores, strict=True))
    opening: list[Any] = []
    for name, store in layers:
        is_int8 = store.dtype.name == layout.INT8
        if is_int8 and not param.contracted:
            raise errors.FailedPreconditionError(
                f"checkpoint {folder.path}: array {layout.PREFIX}{name} is int8, which only the "
                f"matrices of layers and of the output head may be; {_AGAIN}"
            )
        opening.append(_open(folder, name) if is_int8 else None)
    reading = [
        None if future is None else _checked(folder, param, name, store, future).read()
        for (name, store), future in zip(layers, opening, strict=True)
    ]
    return [
        None if future is None else _fitted(_positive(folder, name, future), param)
        for (name, _), future in zip(layers, reading, strict=True)
    ]


def _open(folder: Folder, name: str) -> Any:
    path = layout.array_path(quantised.scale_name(name))
    return ts.open({"driver": "zarr", "kvstore": folder.spec(path)}, read=True)


def _where(folder: Folder, name: str) -> str:
    return f"checkpoint {folder.path}: array {layout.PREFIX}{quantised.scale_name(name)}"


def _checked(folder: Folder, param: Param, name: str, store: Any, opening: Any) -> Any:
    where = _where(folder, name)
    with translated(where):
        try:
            scales = opening.result()
        except ValueError as error:
            if "NOT_FOUND" not in str(error):
                raise
            raise errors.NotFoundError(
                f"{where} is not there, and {layout.PREFIX}{name} is int8; copy the whole folder, "
                f"or {_AGAIN}"
            ) from error
        wanted = [n for axis, n in enumerate(store.shape) if axis not in param.contracted]
        if list(scales.shape) != wanted or scales.dtype.name not in layout.DTYPES:
            raise errors.FailedPreconditionError(
                f"{where} is {scales.dtype.name} of shape {list(scales.shape)}, wanted "
                f"{layout.DTYPES[0]} of shape {wanted}; {_AGAIN}"
            )
    return scales


def _positive(folder: Folder, name: str, reading: Any) -> Array:
    with translated(_where(folder, name)):
        found: Array = reading.result().astype(np.float32)
    quantised.check_scale(found, _where(folder, name))
    return found


def _fitted(found: Array, param: Param) -> Array:
    """Cut, or filled up with ones, where the declaration has another vocabulary."""
    found = np.expand_dims(found, param.contracted)
    shape = [1 if axis in param.contracted else n for axis, n in enumerate(param.shape)]
    fitted: Array = np.ones(shape, np.float32)
    part = tuple(slice(min(a, b)) for a, b in zip(found.shape, shape, strict=True))
    fitted[part] = found[part]
    return fitted
