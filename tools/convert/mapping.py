"""How tensors of other software become the arrays that saxml/models declares.

A rule says, for one declared parameter, which tensors it is made of and how they are laid out.
`convert` checks all of them before it writes the first, then goes tensor by tensor.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorstore as ts

from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.models.params import Param

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Progress = Callable[[int, int], None]


class Tensors(Protocol):
    """Named tensors of one model, read one at a time."""

    @property
    def where(self) -> str:
        """The file or folder, for errors."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each tensor."""

    def dtype(self, name: str) -> str:
        """What get() gives: "float32", "bfloat16" or "float16". Raises for another one."""

    def get(self, name: str) -> Array:
        """The values; a view of a memory map where possible."""

    def release(self, name: str) -> None:
        """Says that the values are no longer used."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """A tensor's shape for a declared shape, and the view that has the declared one."""

    source_shape: Callable[[Shape], Shape]
    view: Callable[[Array, Shape], Array]


KEPT = Layout(lambda s: s, lambda w, s: w)
# Linear layers of PyTorch are [out, in]; ours are [in, out].
TRANSPOSED = Layout(lambda s: (s[1], s[0]), lambda w, s: w.T)
# [H * E, D] -> [D, H, E]
TO_HEADS = Layout(
    lambda s: (s[1] * s[2], s[0]),
    lambda w, s: w.reshape(s[1], s[2], s[0]).transpose(2, 0, 1),
)
# [D, H * E] -> [D, H, E]
FROM_HEADS = Layout(lambda s: (s[0], s[1] * s[2]), lambda w, s: w.reshape(s))


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """`names` has one tensor, or those that are stacked along the first axis; "{layer}" in it is
    the layer's number."""

    names: tuple[str, ...]
    layout: Layout = KEPT


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    source: str
    array: str
    index: int | None
    parts: int
    shape: Shape
    layout: Layout


def convert(
    config: ModelConfig,
    rules: Mapping[str, Rule],
    tensors: Tensors,
    writer: CheckpointWriter,
    *,
    ignored: Callable[[str], bool] = lambda name: False,
    progress: Progress | None = None,
) -> None:
    """Writes every declared parameter of `config`; does not commit.

    Raises InvalidArgumentError, before anything is written, for a tensor that is missing, has
    another shape, or is neither used nor `ignored`.
    """
    if config.num_layers > len(tensors.shapes):
        raise errors.InvalidArgumentError(
            f"{tensors.where} has {len(tensors.shapes)} tensors, too few for the "
            f"{config.num_layers} layers of its configuration"
        )
    pieces = [
        piece
        for name, param in registry.parameters(config).items()
        for piece in _pieces(param, rules[name])
    ]
    _check(pieces, tensors, ignored)
    sizes = [math.prod(piece.shape) for piece in pieces]
    total, done = sum(sizes), 0
    # One tensor is being read, and of what is being compressed there are two copies.
    writer.limit_in_flight(max(_bytes(piece, tensors) for piece in pieces) // 4)
    array = None
    for piece, size in zip(pieces, sizes, strict=True):
        if not piece.index:
            shape = piece.shape if piece.index is None else (piece.parts, *piece.shape)
            array = writer.array(piece.array, shape, tensors.dtype(piece.source))
        assert array is not None
        values = tensors.get(piece.source)
        array.put(piece.layout.view(values, piece.shape), piece.index)
        tensors.release(piece.source)
        done += size
        if progress:
            progress(done, total)


def _bytes(piece: _Piece, tensors: Tensors) -> int:
    size: int = ts.dtype(tensors.dtype(piece.source)).numpy_dtype.itemsize
    return size * math.prod(piece.shape)


def _pieces(param: Param, rule: Rule) -> list[_Piece]:
    stacked = len(rule.names) > 1
    shape = param.shape[1:] if stacked else param.shape
    if stacked and param.shape[0] != len(rule.names):
        raise errors.InternalError(f"{param.pax_name}: {rule.names} do not fill {param.shape}")
    return [
        _Piece(
            name.format(layer=layer),
            param.pax_name.format(layer=layer),
            index if stacked else None,
            len(rule.names),
            shape,
            rule.layout,
        )
        for layer in range(max(param.layers, 1))
        for index, name in enumerate(rule.names)
    ]


def _check(pieces: list[_Piece], tensors: Tensors, ignored: Callable[[str], bool]) -> None:
    for piece in pieces:
        wanted = piece.layout.source_shape(piece.shape)
        found = tensors.shapes.get(piece.source)
        if found is None:
            raise errors.InvalidArgumentError(
                f"{tensors.where} has no tensor {piece.source}; is it of another model family, or "
                "is a file missing?"
            )
        if found != wanted:
            raise errors.InvalidArgumentError(
                f"{tensors.where}: tensor {piece.source} has shape {list(found)}, wanted "
                f"{list(wanted)} by the model's configuration"
            )
        tensors.dtype(piece.source)
    unknown = set(tensors.shapes) - {piece.source for piece in pieces}
    unknown = {name for name in unknown if not ignored(name)}
    if unknown:
        raise errors.UnimplementedError(
            f"{tensors.where}: {len(unknown)} tensors have no place in this model family, among "
            f"them {', '.join(sorted(unknown)[:3])}"
        )
