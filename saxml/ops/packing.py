"""Weights are packed for the CPU kernels piece by piece, so that they need not be there twice.

packing = Packing(family.products(config), shapes, "bfloat16")
for piece in packing.pieces:                      # several threads may share them
    packing.put(piece, {name: Matrix(...) for name in piece.names})
operands = packing.operands()
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from saxml.common import huge_pages
from saxml.ops import cpu_kernels
from saxml.ops.cpu_kernels import Block, Element, Layout
from saxml.ops.linear import Columns, Operand, Rows

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix:
    """values f[rows, columns], or i8 of which each column has a scale f32[1, columns]; or a vector
    f[n] without one. Any strides."""

    values: Array
    scale: Array | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A layer of a product, and the names of what it is made of."""

    product: int
    layer: int
    names: tuple[str, ...]


class Packing:
    """Packed products that are being filled.

    shapes: of each matrix and vector of the products, with layers in front where they are stacked.
    """

    def __init__(
        self,
        products: Sequence[Columns | Rows],
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        element: Element,
    ) -> None:
        self._products = [_Filled(product, shapes, element) for product in products]
        self.pieces = [
            Piece(place, layer, product.names)
            for place, product in enumerate(self._products)
            for layer in range(product.layers)
        ]
        # What need not be kept beside the packed products.
        self.replaced = {name for product in self._products for name in product.replaced}

    def put(self, piece: Piece, parts: Mapping[str, Matrix]) -> None:
        """Packs one piece, once; thread-safe."""
        self._products[piece.product].put(piece.layer, parts)

    def operands(self) -> dict[str, Operand]:
        """By the products' names; when all pieces have been put. The memory is shared."""
        return {product.name: product.operand() for product in self._products}


def pack(
    weights: Mapping[str, jax.Array], products: Sequence[Columns | Rows], element: Element
) -> dict[str, Any]:
    """Weights f[L, ...] (f[...] where the product is not stacked) -> the same, with each product's
    matrices, norms and biases replaced by an Operand under its name; what no product has is
    kept."""
    shapes = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in weights.items()}
    packing = Packing(products, shapes, element)

    def put(piece: Piece) -> None:
        stacked = products[piece.product].stacked
        whole = {name: np.asarray(weights[name]) for name in piece.names}
        packing.put(piece, {n: Matrix(w[piece.layer] if stacked else w) for n, w in whole.items()})

    with ThreadPoolExecutor() as pool:
        list(pool.map(put, packing.pieces))
    kept = {name: w for name, w in weights.items() if name not in packing.replaced}
    return {**kept, **packing.operands()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    first_row: int
    first_column: int
    layout: Layout
    stack: int = 0


class _Filled:
    """One product: a stack of matrices, and the vectors that go with it.

    The matrices of a Rows have a stack each in int8: those below one another would have to share
    their columns' scales.
    """

    def __init__(
        self,
        product: Columns | Rows,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        element: Element,
    ) -> None:
        self.name = product.name
        self._places: dict[str, _Place] = {}
        biases: dict[str, int] = {}  # first columns
        norm = product.norm if isinstance(product, Columns) else None
        if isinstance(product, Rows):
            depths, self._widths = self._place_rows(product, shapes, apart=element == "int8")
            if product.bias is not None:
                biases[product.bias] = 0
        else:
            depths, self._widths = self._place_columns(product, shapes)
            firsts = itertools.accumulate(self._widths, initial=0)
            biases = {
                g.bias: first for g, first in zip(product.groups, firsts, strict=False) if g.bias
            }
        self.layers = shapes[next(iter(self._places))].shape[0] if product.stacked else 1
        columns = sum(self._widths)
        self._stacks = [cpu_kernels.Stack(self.layers, element, d, columns) for d in depths]
        # Where vectors go: a stack of them, and the first place there.
        self._slots: dict[str, tuple[Array, int]] = {}
        self._bias = self._norm_scale = self._norm_bias = None
        if biases:
            self._bias = huge_pages.zeros((self.layers, columns), np.float32)
            self._slots = {name: (self._bias, first) for name, first in biases.items()}
        if norm is not None:
            self._norm_scale = huge_pages.zeros((self.layers, depths[0]), np.float32)
            self._slots[norm.scale] = (self._norm_scale, 0)
            if norm.bias is not None:
                self._norm_bias = huge_pages.zeros((self.layers, depths[0]), np.float32)
                self._slots[norm.bias] = (self._norm_bias, 0)
        self.names = (*self._places, *self._slots)
        twin = product.transposed if isinstance(product, Columns) else None
        self.replaced = (*self.names, *([twin] if twin else []))

    def put(self, layer: int, parts: Mapping[str, Matrix]) -> None:
        """Packs one layer."""
        for index, stack in enumerate(self._stacks):
            blocks = [
                Block(
                    parts[name].values,
                    parts[name].scale,
                    place.first_row,
                    place.first_column,
                    place.layout,
                )
                for name, place in self._places.items()
                if place.stack == index
            ]
            stack.put(layer, blocks)
        for name, (vectors, first) in self._slots.items():
            values = parts[name].values
            vectors[layer, first : first + len(values)] = values

    def operand(self) -> Operand:
        """What the kernels take."""
        vectors = (self._bias, self._norm_scale, self._norm_bias)
        bias, scale, shift = (
            None if v is None else jax.device_put(v, may_alias=True) for v in vectors
        )
        packed = tuple(stack.packed() for stack in self._stacks)
        return Operand(packed, bias, scale, shift, self._widths)

    def _place_rows(
        self, product: Rows, shapes: Mapping[str, jax.ShapeDtypeStruct], *, apart: bool
    ) -> tuple[list[int], tuple[int, ...]]:
        """Depths of the stacks, and the widths of outputs."""
        depths: list[int] = []
        for name in product.matrices:
            if apart or not depths:
                depths.append(0)
            self._places[name] = _Place(depths[-1], 0, "plain", len(depths) - 1)
            depths[-1] += shapes[name].shape[-2]
        return depths, (shapes[product.matrices[0]].shape[-1],)

    def _place_columns(
        self, product: Columns, shapes: Mapping[str, jax.ShapeDtypeStruct]
    ) -> tuple[list[int], tuple[int, ...]]:
        first = 0
        widths = []
        for group in product.groups:
            sizes = [shapes[name].shape[-1] for name in group.matrices]
            column = first
            if group.activation == "silu_gated":
                gate, up = group.matrices
                self._places[gate] = _Place(0, first // 2, "gate")
                self._places[up] = _Place(0, first // 2, "up")
            else:
                for name, size in zip(group.matrices, sizes, strict=True):
                    self._places[name] = _Place(0, column, "plain")
                    column += size
            widths.append(sum(sizes))
            first += widths[-1]
        return [shapes[product.groups[0].matrices[0]].shape[-2]], tuple(widths)
