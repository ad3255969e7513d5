"""The kernels of native/kernels as JAX functions, for CPUs.

Weights lie packed, as units of 32 bits in panels of 32 columns (native/kernels/pack.h), stacked
over layers; a kernel is told which layer it is for, so nothing is cut out of the stack. Rows behind
`valid` are not computed, and nobody may look at them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from saxml import kernels
from saxml.common import huge_pages

Element = Literal["float32", "bfloat16", "int8"]
Activation = Literal["none", "gelu", "silu_gated"]

_ELEMENTS: dict[str, int] = {"float32": 0, "bfloat16": 1, "int8": 2}
_ACTIVATIONS: dict[str, int] = {"none": 0, "gelu": 1, "silu_gated": 2}
_NORMS: dict[str, int] = {"none": 0, "layer": 1, "rms": 2}
_STYLES: dict[str, int] = {"pairs": 0, "halves": 1}
_PANEL = 32

for _name, _handler in kernels.handlers().items():
    jax.ffi.register_ffi_target(_name, _handler, platform="cpu")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A stack of L matrices f[depth, columns].

    units u32[L, n]; scale f32[L, columns to a multiple of 32] for int8, else of no columns.
    """

    units: jax.Array
    scale: jax.Array
    element: Element = dataclasses.field(metadata={"static": True})
    depth: int = dataclasses.field(metadata={"static": True})
    columns: int = dataclasses.field(metadata={"static": True})

    @property
    def unit_depth(self) -> int:
        """Units below one another in a column."""
        return self.units.shape[1] // (-(-self.columns // _PANEL) * _PANEL)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Norm:
    """A norm before a product: scale f32[L, depth], bias f32[L, depth] or None."""

    scale: jax.Array
    bias: jax.Array | None
    kind: Literal["layer", "rms"] = dataclasses.field(metadata={"static": True})
    eps: float = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """So many columns of a product; gated ones come in pairs, of which one is left."""

    columns: int
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: Activation = "none"


Layout = Literal["plain", "gate", "up"]


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A piece of a matrix: values f[rows, columns], or i8 with a scale f32[1, columns].

    Any strides. layout "gate" and "up" are the two halves of columns that are multiplied with each
    other.
    """

    values: npt.NDArray[Any]
    scale: npt.NDArray[np.float32] | None = None
    first_row: int = 0
    first_column: int = 0
    layout: Layout = "plain"


class Stack:
    """A stack of matrices f[depth, columns] that are being packed, each by itself."""

    def __init__(self, layers: int, element: Element, depth: int, columns: int) -> None:
        self._element: Element = element
        self._depth = depth
        self._columns = columns
        units = kernels.packed_units(element, depth, columns)
        padded = -(-columns // _PANEL) * _PANEL if element == "int8" else 0
        self._units = huge_pages.zeros((layers, units), np.uint32)
        self._scale = huge_pages.zeros((layers, padded), np.float32)

    def put(self, layer: int, blocks: Sequence[Block]) -> None:
        """Packs one matrix, once, all of it together: its columns have one scale in int8. Raises
        ValueError for blocks that lie outside. Layers may be put from several threads."""
        size = self._depth, self._columns
        scale = self._scale[layer] if self._element == "int8" else None
        pieces = [(b, b.values if self._keeps(b) else _floats(b)) for b in blocks]
        if scale is not None:
            for block, values in pieces:
                place = block.first_column, block.layout
                if block.scale is not None and self._keeps(block):
                    own = np.ascontiguousarray(block.scale[0])
                    kernels.place_scales(scale, self._columns, own, *place)
                else:
                    kernels.column_scales(scale, *size, values, *place)
        for block, values in pieces:
            kernels.pack(
                self._units[layer],
                self._element,
                *size,
                values,
                block.first_row,
                block.first_column,
                block.layout,
                scale,
            )

    def _keeps(self, block: Block) -> bool:
        """Whether integers stay as they are: others below them would need other scales."""
        whole = block.values.shape[0] == self._depth
        return self._element == "int8" and block.scale is not None and whole

    def packed(self) -> Packed:
        """What has been put. The memory is shared."""
        units, scale = (jax.device_put(a, may_alias=True) for a in (self._units, self._scale))
        return Packed(units, scale, self._element, self._depth, self._columns)


def _floats(block: Block) -> npt.NDArray[Any]:
    """As the kernels take them: float32, or the bits of bfloat16."""
    if block.scale is not None:
        return block.values * block.scale
    if block.values.dtype == jnp.bfloat16:
        return block.values.view(np.uint16)
    return block.values.astype(np.float32, copy=False)


def columns(packed: Packed, which: jax.Array) -> jax.Array:
    """Columns i32[N] of the first matrix of a stack -> f[N, depth], bfloat16 where it is so stored,
    else float32."""
    # No copy: that of the packed matrix would be as large as it is.
    units = packed.units.reshape(packed.units.shape[0], -1, packed.unit_depth, _PANEL)
    found = units[0, which // _PANEL, :, which % _PANEL]
    kind = jnp.dtype(jnp.uint8 if packed.element == "int8" else packed.element)
    values = jax.lax.bitcast_convert_type(found, kind).reshape(len(which), -1)[:, : packed.depth]
    if packed.element == "int8":
        # They are stored 128 too large.
        return (values.astype(jnp.float32) - 128) * packed.scale[0, which][:, None]
    return values


def linear(
    inputs: Sequence[jax.Array],
    packed: Packed,
    layer: jax.Array,
    valid: jax.Array,
    outputs: Sequence[Output],
    *,
    norm: Norm | None = None,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
    """activation(norm(inputs) @ packed[layer] + bias[layer]), and the residual on the first output.

    inputs: one or two of f[T, n], side by side; layer i32, valid i32; bias f32[L, columns];
    residual f32 of the first output's shape. A norm is of one input.
    """
    T = inputs[0].shape[0]
    nothing = jnp.zeros(0, jnp.float32)
    none = jnp.zeros((T, 0), jnp.float32)
    first, second = (*inputs, none)[:2]
    widths = [o.columns // 2 if o.activation == "silu_gated" else o.columns for o in outputs]
    shapes = [jax.ShapeDtypeStruct((T, w), o.dtype) for w, o in zip(widths, outputs, strict=True)]
    shapes += [jax.ShapeDtypeStruct((T, 0), jnp.float32)] * (2 - len(outputs))
    activations = [_ACTIVATIONS[o.activation] for o in outputs] + [0]
    results = jax.ffi.ffi_call("sax_linear", shapes)(
        first,
        second,
        layer[None],
        valid[None],
        packed.units,
        packed.scale,
        nothing if norm is None else norm.scale,
        nothing if norm is None or norm.bias is None else norm.bias,
        nothing if bias is None else bias,
        nothing if residual is None else residual,
        element=_ELEMENTS[packed.element],
        columns=packed.columns,
        norm=_NORMS["none" if norm is None else norm.kind],
        norm_eps=np.float32(0 if norm is None else norm.eps),
        activation0=activations[0],
        activation1=activations[1],
    )
    return tuple(results[: len(outputs)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PageShape:
    """Pages of one layer: u32[pages, kv_heads, head_units], see native/kernels/attention.h."""

    kv_heads: int
    head_dim: int
    page_size: int
    element: Literal["float32", "bfloat16"]

    @property
    def head_units(self) -> int:
        """Units of a page for one kv head."""
        return kernels.head_page_units(self.element, self.head_dim, self.page_size)


def attention(
    qkv: jax.Array,
    pages: jax.Array,
    layer: jax.Array,
    *,
    shape: PageShape,
    heads: int,
    q_start: jax.Array,
    kv_len: jax.Array,
    page_table: jax.Array,
    num_rows: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    rotary_style: str,
    query_scale: float,
    dtype: jax.typing.DTypeLike,
) -> tuple[jax.Array, jax.Array]:
    """Writes the new keys and values and attends: (out f[T, heads * head_dim], pages).

    qkv f32[T, (heads + 2 kv_heads) * head_dim], not rotated; pages u32[L, P, kv_heads, head_units],
    changed in place; rows as RaggedBatch has them; cos and sin f32[T, rotary_dim] of `rotary`.
    """
    out = jax.ShapeDtypeStruct((qkv.shape[0], heads * shape.head_dim), dtype)
    call = jax.ffi.ffi_call(
        "sax_attention",
        (out, jax.ShapeDtypeStruct(pages.shape, pages.dtype)),
        input_output_aliases={8: 1},
    )
    attended, pages = call(
        qkv,
        layer[None],
        num_rows[None],
        q_start,
        kv_len,
        page_table,
        cos,
        sin,
        pages,
        heads=heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        page_size=shape.page_size,
        element=_ELEMENTS[shape.element],
        style=_STYLES[rotary_style],
        query_scale=np.float32(query_scale),
    )
    return attended, pages


def rotary(angles: jax.Array, style: str) -> tuple[jax.Array, jax.Array]:
    """angles f32[T, n] -> cos, sin f32[T, 2n]: dim d becomes d * cos + its partner * sin."""
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if style == "pairs":
        signed = jnp.stack([-sin, sin], -1).reshape(sin.shape[0], -1)
        return jnp.repeat(cos, 2, axis=-1), signed
    return jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)


def top_k(logits: jax.Array, k: int, valid: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best of logits f32[N, V]: (values f32[N, k], falling, tokens i32[N, k], log f32[N] of the
    sum of exp(logit - the greatest)); of the first `valid` rows.

    Of equal ones the lowest token comes first. A row with NaN has NaN as its log.
    """
    N = logits.shape[0]
    values, indices, log_sum = jax.ffi.ffi_call(
        "sax_choice",
        (
            jax.ShapeDtypeStruct((N, k), jnp.float32),
            jax.ShapeDtypeStruct((N, k), jnp.int32),
            jax.ShapeDtypeStruct((N,), jnp.float32),
        ),
    )(logits, valid[None])
    return values, indices, log_sum
