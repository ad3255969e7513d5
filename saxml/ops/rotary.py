"""Rotary position embedding (Su et al. 2021)."""

import jax
import jax.numpy as jnp


def angles(positions: jax.Array, rotary_dim: int, base: float) -> jax.Array:
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
