"""Pieces that model families share."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from saxml.ops import linear
from saxml.ops.attention import Cache

Layer = Callable[[jax.Array, Mapping[str, Any], jax.Array, Cache], tuple[jax.Array, Cache]]


def scan_layers(
    layer: Layer[Cache],
    stacked: Mapping[str, Any],
    x: jax.Array,
    cache: Cache,
    valid: jax.Array | None,
) -> tuple[jax.Array, Cache]:
    """Applies layer(index, weights of that layer, x, cache) for each layer; the cache is carried,
    so it updates in place. valid: how many rows of x count; None: all.

    Packed operands are not cut: they are told the layer. Whoever differentiates this keeps each
    layer's input and computes the rest of it again.
    """
    whole = {n: w for n, w in stacked.items() if isinstance(w, linear.Operand)}
    cut = {n: w for n, w in stacked.items() if n not in whole}
    count = jax.tree.leaves(stacked)[0].shape[0]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(
        carry: tuple[jax.Array, jax.Array, Cache], weights: Mapping[str, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array, Cache], None]:
        index, x, cache = carry
        own = {**weights, **{n: w.at(index, valid) for n, w in whole.items()}}
        x, cache = layer(index, own, x, cache)
        return (index + 1, x, cache), None

    (_, x, cache), _ = jax.lax.scan(step, (jnp.int32(0), x, cache), cut, length=count)
    return x, cache


def logits(
    p: Mapping[str, Any], product: linear.Columns, hidden: jax.Array, valid: jax.Array | None
) -> jax.Array:
    """The product of the output head: hidden f[N, D] -> f32[N, V]. Only the first `valid` rows need
    be right; None: all."""
    if product.name in p:
        p = {product.name: p[product.name].at(jnp.int32(0), valid)}
    ((found,),) = linear.project(p, product, hidden)
    return found.astype(jnp.float32)
