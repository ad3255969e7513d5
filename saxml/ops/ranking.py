"""The best tokens of each row of logits, and what makes log-probabilities of logits.

ranking = rank(logits)
values, tokens = ranking.best(40)
logp = ranking.logp(values)
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, slots=True)
class Ranking:
    """Of logits f32[N, V].

    A row with NaN or infinity, or of -infinity alone, has a log_sum that is not finite, and any
    tokens as its best.
    """

    most: jax.Array  # f32[N, 1], the greatest
    log_sum: jax.Array  # f32[N, 1], log of the sum of exp(logit - most)
    # How many -> (logits f32[N, k], falling, tokens i32[N, k]); of equal ones the lowest token
    # first.
    best: Callable[[int], tuple[jax.Array, jax.Array]]

    def logp(self, logits: jax.Array) -> jax.Array:
        """Log-probabilities of some of the logits, f32[N, n] each."""
        return (logits - self.most) - self.log_sum


def rank(logits: jax.Array) -> Ranking:
    """In plain JAX."""
    most = logits.max(-1, keepdims=True)
    log_sum = jnp.log(jnp.exp(logits - most).sum(-1, keepdims=True))
    return Ranking(most, log_sum, lambda count: _best(logits, count))


def _best(logits: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Nothing of it may be sliced: XLA's CPU backend then sorts all of a row, a hundred times
    slower."""
    if count == 0:
        return logits[:, :0], jnp.zeros((len(logits), 0), jnp.int32)
    if count == 1:
        place = jnp.argmax(logits, axis=-1, keepdims=True)
        return jnp.take_along_axis(logits, place, 1), place
    values, places = jax.lax.top_k(logits, count)
    return values, places
