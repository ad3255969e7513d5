"""Reads GGUF files (versions 2 and 3): metadata and the places of tensors, bounds checked.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import math
import struct
from typing import Any

from saxml.common import errors
from tools.convert import dequantise
from tools.convert.mapped_file import MappedFile

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_U32, _U64 = _SCALARS[4], _SCALARS[10]


@dataclasses.dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. `shape` is rows first, the reverse of what the file says."""

    shape: tuple[int, ...]
    kind: int
    start: int
    length: int


class GgufFile:
    """A parsed file. Raises InvalidArgumentError, which says what is wrong, for a file that is cut
    short, damaged or not GGUF."""

    def __init__(self, path: str) -> None:
        self.file = MappedFile(path)
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._at = 0
        if self._take(4, "the magic number") != _MAGIC:
            raise self._bad("it does not begin with GGUF")
        version = self._number(_U32)
        if version not in _VERSIONS:
            raise errors.UnimplementedError(
                f"{path} is GGUF version {version}; versions 2 and 3 are read"
            )
        # A tensor's description has at least 24 bytes, a pair of metadata 13.
        tensors, pairs = self._count(24, "tensors"), self._count(13, "metadata")
        for _ in range(pairs):
            key = self._text()
            self.metadata[key] = self._value(self._number(_U32), key, nested=False)
        described = [self._describe() for _ in range(tensors)]
        self._place(described)

    def _place(self, described: list[tuple[str, tuple[int, ...], int, int]]) -> None:
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
            raise self._bad(f"general.alignment is {alignment!r}")
        base = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in described:
            if name in self.tensors:
                raise self._bad(f"tensor {name} is described twice")
            try:
                length = dequantise.stored_bytes(kind, shape)
            except errors.InvalidArgumentError as error:
                raise self._bad(f"tensor {name}: {error}") from error
            except errors.UnimplementedError as error:
                raise errors.UnimplementedError(
                    f"{self.file.path}: tensor {name}: {error}"
                ) from error
            self.file.bytes(base + offset, 0, f"tensor {name}")
            self.file.bytes(base + offset + length, 0, f"the end of tensor {name}")
            self.tensors[name] = TensorInfo(shape, kind, base + offset, length)

    def _describe(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        dims = self._number(_U32)
        if not 1 <= dims <= _MAX_DIMS:
            raise self._bad(f"tensor {name} has {dims} dimensions")
        shape = tuple(self._number(_U64) for _ in range(dims))[::-1]
        if math.prod(shape) > 1 << 48:
            raise self._bad(f"tensor {name} has shape {list(shape)}")
        return name, shape, self._number(_U32), self._number(_U64)

    def _value(self, kind: int, key: str, nested: bool) -> Any:
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind != _ARRAY or nested:
            raise self._bad(f"metadata {key} has type {kind}")
        inner = self._number(_U32)
        size = 8 if inner == _STRING else _SCALARS[inner].size if inner in _SCALARS else 0
        if not size:
            raise self._bad(f"metadata {key} is an array of type {inner}")
        count = self._count(size, f"metadata {key}")
        if inner in _SCALARS:
            scalar = _SCALARS[inner]
            data = self._take(count * size, f"metadata {key}")
            return [v for (v,) in scalar.iter_unpack(data)]
        return [self._text() for _ in range(count)]

    def _text(self) -> str:
        length = self._number(_U64)
        return self._take(length, "a text").decode("utf-8", errors="replace")

    def _count(self, each: int, what: str) -> int:
        """A number of things of at least `each` bytes, which must fit into the rest of the file."""
        count: int = self._number(_U64)
        if count * each > self.file.size - self._at:
            raise self._bad(f"{count} entries of {what} do not fit into its {self.file.size} bytes")
        return count

    def _number(self, kind: struct.Struct) -> Any:
        return kind.unpack(self._take(kind.size, "its header"))[0]

    def _take(self, length: int, what: str) -> bytes:
        data = self.file.bytes(self._at, length, what)
        self._at += length
        return data

    def _bad(self, what: str) -> errors.InvalidArgumentError:
        return errors.InvalidArgumentError(
            f"{self.file.path} is not a sound GGUF file: {what}; fetch it again"
        )
