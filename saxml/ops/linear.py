"""Linear: activations times a weight matrix.

Contract: linear(x f[T, D], w f[D, N], bias f[N] | None) -> f[T, N]. `prepare` turns a restored
weight f[..., D, N] into the layout that `linear` likes; it runs once at load.
"""

import jax
import jax.numpy as jnp


def prepare(w: jax.Array) -> jax.Array:
    """Layout for XLA's own matmul: as it is."""
    return w


def linear(x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x f[T, D] @ w f[D, N] (+ bias f[N]) -> f[T, N], accumulated in float32."""
    y = jnp.dot(x, w, preferred_element_type=jnp.float32)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(x.dtype)
