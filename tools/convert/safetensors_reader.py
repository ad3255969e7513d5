"""Tensors of a Hugging Face folder: model.safetensors, or shards with an index.

Format: 8 bytes little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, then the
data (https://github.com/huggingface/safetensors).
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from saxml.common import errors
from tools.convert.mapped_file import MappedFile
from tools.convert.mapping import Array, Shape

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    file: MappedFile
    dtype: str
    shape: Shape
    start: int
    length: int


class SafetensorsFolder:
    """The tensors of a folder. Raises InvalidArgumentError where a file does not hold together."""

    def __init__(self, folder: str) -> None:
        self.where = folder
        self._entries: dict[str, _Entry] = {}
        index = os.path.join(folder, INDEX)
        if os.path.exists(index):
            placed = read_index(index)
            for name in sorted(set(placed.values())):
                self._add(os.path.join(folder, name))
            for tensor, name in placed.items():
                entry = self._entries.get(tensor)
                if entry is None or os.path.basename(entry.file.path) != name:
                    raise errors.InvalidArgumentError(
                        f"{index} places tensor {tensor} in {name}, which does not have it"
                    )
        else:
            self._add(os.path.join(folder, SINGLE))

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each tensor."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def dtype(self, name: str) -> str:
        """Name of the tensor's type."""
        dtype = self._entries[name].dtype
        if dtype not in _DTYPES:
            raise errors.UnimplementedError(
                f"{self.where}: tensor {name} is {dtype}; {', '.join(_DTYPES)} are converted"
            )
        return _DTYPES[dtype].name

    def get(self, name: str) -> Array:
        """A view of the memory map."""
        entry = self._entries[name]
        dtype = _DTYPES[entry.dtype]
        flat = entry.file.array(entry.start, math.prod(entry.shape), dtype, f"tensor {name}")
        return flat.reshape(entry.shape)

    def release(self, name: str) -> None:
        """Gives its pages back."""
        entry = self._entries[name]
        entry.file.release(entry.start, entry.length)

    def _add(self, path: str) -> None:
        file = MappedFile(path)
        length = int.from_bytes(file.bytes(0, 8, "the header's length"), "little")
        try:
            header = json.loads(file.bytes(8, length, "the header"))
            for name, fields in header.items():
                if name != "__metadata__":
                    self._entries[name] = _entry(file, 8 + length, name, fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise errors.InvalidArgumentError(
                f"{path}: the header is damaged ({error!r}); fetch the file again"
            ) from error


def _entry(file: MappedFile, base: int, name: str, fields: Any) -> _Entry:
    start, stop = (int(n) for n in fields["data_offsets"])
    shape = tuple(int(n) for n in fields["shape"])
    dtype = fields["dtype"]
    if dtype in _DTYPES and (
        min(shape, default=0) < 0 or math.prod(shape) * _DTYPES[dtype].itemsize != stop - start
    ):
        raise errors.InvalidArgumentError(
            f"{file.path}: tensor {name} of shape {list(shape)} and type {dtype} is said to have "
            f"{stop - start} bytes; fetch the file again"
        )
    file.bytes(base + start, 0, f"tensor {name}")
    file.bytes(base + stop, 0, f"tensor {name}")
    return _Entry(file, dtype, shape, base + start, stop - start)


def read_index(path: str) -> dict[str, str]:
    """Tensor -> file of an index; only plain file names are accepted."""
    try:
        with open(path, encoding="utf-8") as file:
            placed = json.load(file)["weight_map"]
        if (
            not all(isinstance(f, str) and os.path.basename(f) == f for f in placed.values())
            or not placed
        ):
            raise ValueError("weight_map does not map tensors to file names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.InvalidArgumentError(f"{path} is not an index of tensors: {error}") from error
    return dict(placed)
