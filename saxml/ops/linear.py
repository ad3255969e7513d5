"""Products of activations and weights, with the norm before them and what follows at once.

A family declares each product as data: a `Columns` is several matrices beside each other with the
same input, a `Rows` several below each other whose inputs lie side by side. `project` and `combine`
compute one for one layer. They find its operands in the layer's weights: either the matrices
themselves, by their names, or all of them packed for the CPU kernels, under the product's own name
(see saxml.ops.packing).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from saxml.ops import norms

Activation = Literal["none", "gelu", "silu_gated"]
Weights = Mapping[str, Any]
_PANEL = 32  # columns that are packed together, see native/kernels/pack.h


@dataclasses.dataclass(frozen=True, slots=True)
class Norm:
    """Names of a norm's scale f[D] and bias f[D]; without bias it is RMSNorm, else LayerNorm."""

    scale: str
    eps: float
    bias: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Names of matrices f[D, N] that make one output; "silu_gated": silu(x @ first) * (x @
    second)."""

    matrices: tuple[str, ...]
    activation: Activation = "none"
    bias: str | None = None  # f[N], of a group of one matrix


@dataclasses.dataclass(frozen=True, slots=True)
class Columns:
    """norm(x) times the matrices of one or two groups; of one layer, or of a stack of them."""

    name: str
    groups: tuple[Group, ...]
    norm: Norm | None = None
    stacked: bool = True
    # An operand that is the one matrix transposed: a packed one gives its rows, too, see `lookup`.
    transposed: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """The sum of products of inputs f[T, D_i] and matrices f[D_i, N], with a bias f[N]."""

    name: str
    matrices: tuple[str, ...]
    bias: str | None = None
    stacked: bool = True


def linear(x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x f[T, D] @ w f[D, N] (+ bias f[N]) -> f[T, N], accumulated in float32."""
    y = jnp.dot(x, w, preferred_element_type=jnp.float32)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(x.dtype)


def project(w: Weights, product: Columns, x: jax.Array) -> tuple[tuple[jax.Array, ...], ...]:
    """x f[T, D] -> for each group what its matrices give: one f[T, N] each, or all of them side by
    side in one array where they are packed; one where they are gated."""
    if product.name in w:
        return tuple((y,) for y in _packed_project(w[product.name], product, x))
    if product.norm is not None:
        x = norms.norm(
            x,
            w[product.norm.scale],
            None if product.norm.bias is None else w[product.norm.bias],
            product.norm.eps,
        )
    return tuple(_group(w, group, x) for group in product.groups)


def _group(w: Weights, group: Group, x: jax.Array) -> tuple[jax.Array, ...]:
    bias = None if group.bias is None else w[group.bias]
    found = [linear(x, w[name], bias) for name in group.matrices]
    if group.activation == "silu_gated":
        gate, up = found
        return (jax.nn.silu(gate) * up,)
    if group.activation == "gelu":
        return tuple(jax.nn.gelu(y, approximate=True) for y in found)
    return tuple(found)


def combine(
    w: Weights, product: Rows, inputs: Sequence[jax.Array], residual: jax.Array
) -> jax.Array:
    """residual f[T, N] + the product of inputs f[T, D_i] -> f[T, N]."""
    if product.name in w:
        return _packed_combine(w[product.name], inputs, residual)
    names = product.matrices
    bias = None if product.bias is None else w[product.bias]
    for i, (x, name) in enumerate(zip(inputs, names, strict=True)):
        last = i + 1 == len(names)
        residual = residual + linear(x, w[name], bias if last else None)
    return residual


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Operand:
    """A packed product: a stack of matrices with biases f32[L, N] and norms f32[L, D], or None.

    layer i32 and valid i32, rows that count, are known where it is used; None before.
    """

    # cpu_kernels.Packed: one, or one for each input of a Rows.
    packed: tuple[Any, ...]
    bias: jax.Array | None
    norm_scale: jax.Array | None
    norm_bias: jax.Array | None
    # Columns of each output.
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    layer: jax.Array | None = None
    valid: jax.Array | None = None

    def at(self, layer: jax.Array, valid: jax.Array | None) -> "Operand":
        """This operand in one layer, for a step of which `valid` rows count (None: all)."""
        return dataclasses.replace(self, layer=layer, valid=valid)


def misfit(
    shapes: Mapping[str, jax.ShapeDtypeStruct], products: Sequence[Columns | Rows]
) -> str | None:
    """Why matrices of these shapes cannot be packed; None: they can."""
    for product in products:
        if isinstance(product, Rows):
            continue
        for group in product.groups:
            columns = sum(shapes[name].shape[-1] for name in group.matrices)
            whole = group.activation == "silu_gated" or group is not product.groups[-1]
            if whole and columns % _PANEL:
                names = " and ".join(group.matrices)
                return f"{names} have {columns} columns, no multiple of {_PANEL}"
    return None


def lookup(operand: Operand, columns: jax.Array) -> jax.Array:
    """Columns i32[N] of a packed product that is not stacked -> f[N, depth]."""
    from saxml.ops import cpu_kernels

    return cpu_kernels.columns(operand.packed[0], columns)


def _layer_and_rows(operand: Operand, rows: int) -> tuple[jax.Array, jax.Array]:
    layer = jnp.int32(0) if operand.layer is None else operand.layer
    return layer, jnp.int32(rows) if operand.valid is None else operand.valid


def _packed_project(operand: Operand, product: Columns, x: jax.Array) -> tuple[jax.Array, ...]:
    from saxml.ops import cpu_kernels

    norm = None
    if product.norm is not None:
        assert operand.norm_scale is not None
        kind: Any = "rms" if product.norm.bias is None else "layer"
        norm = cpu_kernels.Norm(operand.norm_scale, operand.norm_bias, kind, product.norm.eps)
    layer, valid = _layer_and_rows(operand, x.shape[0])
    # What goes into the next product is rounded there in any case.
    (packed,) = operand.packed
    narrow = jnp.float32 if packed.element == "float32" else jnp.bfloat16
    widths = operand.widths
    outputs = [
        cpu_kernels.Output(
            width, jnp.float32 if group.activation == "none" else narrow, group.activation
        )
        for width, group in zip(widths, product.groups, strict=True)
    ]
    return cpu_kernels.linear([x], packed, layer, valid, outputs, norm=norm, bias=operand.bias)


def _packed_combine(
    operand: Operand, inputs: Sequence[jax.Array], residual: jax.Array
) -> jax.Array:
    from saxml.ops import cpu_kernels

    layer, valid = _layer_and_rows(operand, residual.shape[0])
    whole = len(operand.packed) == 1
    for i, packed in enumerate(operand.packed):
        last = i + 1 == len(operand.packed)
        (residual,) = cpu_kernels.linear(
            inputs if whole else inputs[i : i + 1],
            packed,
            layer,
            valid,
            [cpu_kernels.Output(residual.shape[1])],
            bias=operand.bias if last else None,
            residual=residual,
        )
    return residual
