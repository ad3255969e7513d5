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
    keys: jax.Array,
) -> jax.Array:
    """Ranks i32[N] of the chosen candidates; logp f32[N, C] is sorted, descending.

    Gumbel-max on raw scores, argmax(logp + temperature * gumbel), so temperature 0 is greedy. top_k
    (0: all) and then top_p restrict the candidates first: top_p keeps the smallest prefix whose
    mass at temperature 1, among those top_k kept, exceeds it.
    """
    C = logp.shape[1]
    kept = jnp.arange(C) < jnp.where(top_k > 0, top_k, C)[:, None]
    masked = jnp.where(kept, logp, -jnp.inf)
    mass = jax.nn.softmax(masked, axis=-1)
    before = jnp.cumsum(mass, axis=-1) - mass
    kept &= (before <= top_p[:, None]) | (jnp.arange(C) == 0)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (C,)))(keys)
    scores = jnp.where(kept, logp + temperature[:, None] * noise, -jnp.inf)
    return jnp.argmax(scores, axis=-1)
