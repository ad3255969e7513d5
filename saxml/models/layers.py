"""Pieces that model families share. Norms and softmax are computed in float32."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from saxml.ops.attention import Cache


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """LayerNorm over the last axis with direct scale and bias: f[T, D] -> f[T, D]."""
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + eps)
    return (normed * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """RMSNorm over the last axis with direct scale: f[T, D] -> f[T, D]."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + eps)
    return (normed * scale.astype(jnp.float32)).astype(x.dtype)


def rotary_angles(positions: jax.Array, rotary_dim: int, base: float) -> jax.Array:
    """positions i32[T] -> angles f32[T, rotary_dim / 2]; frequency i is base ** (-2 i / rotary_dim)
    (Su et al. 2021)."""
    frequencies = base ** (-jnp.arange(0, rotary_dim, 2, dtype=jnp.float32) / max(rotary_dim, 1))
    return positions.astype(jnp.float32)[:, None] * frequencies


def rotate(x: jax.Array, angles: jax.Array, style: str) -> jax.Array:
    """Rotary embedding of the first 2 * angles.shape[-1] dims of each head: f[T, H, E] -> f[T, H,
    E].

    style "pairs" rotates dims (2i, 2i+1), "halves" rotates (i, i + rotary_dim / 2).
    """
    half = angles.shape[-1]
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    turned, rest = x[..., : 2 * half].astype(jnp.float32), x[..., 2 * half :]
    if style == "pairs":
        a, b = turned[..., 0::2], turned[..., 1::2]
        rotated = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(turned.shape)
    else:
        a, b = turned[..., :half], turned[..., half:]
        rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    return jnp.concatenate([rotated.astype(x.dtype), rest], -1)


Layer = Callable[[jax.Array, Mapping[str, jax.Array], jax.Array, Cache], tuple[jax.Array, Cache]]


def scan_layers(
    layer: Layer[Cache], stacked: Mapping[str, jax.Array], x: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Applies layer(index, weights of that layer, x, cache) for each layer; the cache is carried,
    so it updates in place.

    Whoever differentiates this keeps each layer's input and computes the rest of it again.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(
        carry: tuple[jax.Array, jax.Array, Cache], weights: Mapping[str, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array, Cache], None]:
        index, x, cache = carry
        x, cache = layer(index, weights, x, cache)
        return (index + 1, x, cache), None

    (_, x, cache), _ = jax.lax.scan(step, (jnp.int32(0), x, cache), dict(stacked))
    return x, cache
