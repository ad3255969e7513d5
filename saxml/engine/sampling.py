"""Choosing a token among candidates, row by row, independent of the other rows of the batch."""

import jax
import jax.numpy as jnp


def row_keys(seed: jax.Array, sample: jax.Array, position: jax.Array) -> jax.Array:
    """A random key a row, from its request's seed, its sample index and its position only: i32[N]
    each -> key[N]."""

    def key(seed: jax.Array, sample: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sample), position)

    return jax.vmap(key)(seed, sample, position)


def sample(
    logp: jax.Array,
    *,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
    min_p: jax.Array,
    keys: jax.Array,
) -> jax.Array:
    """Ranks i32[N] of the chosen candidates; logp f32[N, C] is sorted, descending, and need not be
    normalised.

    Gumbel-max on raw scores, argmax(logp + temperature * gumbel), so temperature 0 is greedy. First
    the candidates are restricted, at temperature 1: top_k (0: all); then top_p keeps the smallest
    prefix whose mass among those exceeds it; then min_p keeps those with at least min_p times the
    first one's probability.
    """
    C = logp.shape[1]
    kept = jnp.arange(C) < jnp.where(top_k > 0, top_k, C)[:, None]
    mass = jax.nn.softmax(jnp.where(kept, logp, -jnp.inf), axis=-1)
    before = jnp.cumsum(mass, axis=-1) - mass
    kept &= before <= top_p[:, None]
    kept &= logp - logp.max(-1, keepdims=True) >= jnp.log(min_p)[:, None]
    kept |= jnp.arange(C) == 0
    noise = jax.lax.cond(
        (temperature > 0).any(),
        lambda: jax.vmap(lambda key: jax.random.gumbel(key, (C,)))(keys),
        lambda: jnp.zeros_like(logp),
    )
    scores = jnp.where(kept, logp + temperature[:, None] * noise, -jnp.inf)
    return jnp.argmax(scores, axis=-1)
