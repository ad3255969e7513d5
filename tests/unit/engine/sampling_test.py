"""Sampling: which candidates are kept, and the distribution among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from saxml.engine import sampling

LOGITS = np.array([2.0, 1.5, 1.0, 0.0, -1.0], np.float32)
DRAWS = 20000


def draw(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Ranks i32[DRAWS] of independent rows."""
    n = DRAWS
    logp = jnp.broadcast_to(jax.nn.log_softmax(LOGITS), (n, len(LOGITS)))
    keys = sampling.row_keys(jnp.arange(n), jnp.zeros(n, jnp.int32), jnp.full(n, 3))
    return np.asarray(
        sampling.sample(
            logp,
            temperature=jnp.full(n, temperature),
            top_k=jnp.full(n, top_k),
            top_p=jnp.full(n, top_p),
            min_p=jnp.full(n, min_p),
            keys=keys,
        )
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    counts = np.bincount(draw(temperature), minlength=len(LOGITS))
    wanted = np.exp(LOGITS.astype(np.float64) / temperature)
    wanted *= DRAWS / wanted.sum()
    assert stats.chisquare(counts, wanted).pvalue > 1e-4


@pytest.mark.parametrize(("top_k", "kept"), [(1, 1), (3, 3), (0, 5), (99, 5)])
def test_top_k_keeps_the_best(top_k: int, kept: int) -> None:
    assert set(draw(3.0, top_k=top_k)) == set(range(kept))


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.4, 1), (0.5, 2), (0.95, 4), (1.0, 5)])
def test_top_p_keeps_the_smallest_prefix_whose_mass_exceeds_it(top_p: float, kept: int) -> None:
    # The masses are 0.463, 0.281, 0.170, 0.063, 0.023.
    assert set(draw(5.0, top_p=top_p)) == set(range(kept))


def test_temperature_zero_takes_the_first_of_equals() -> None:
    ranks = sampling.sample(
        jnp.zeros((2, 4)),
        temperature=jnp.zeros(2),
        top_k=jnp.zeros(2, jnp.int32),
        top_p=jnp.ones(2),
        min_p=jnp.zeros(2),
        keys=sampling.row_keys(jnp.arange(2), jnp.arange(2), jnp.arange(2)),
    )
    assert ranks.tolist() == [0, 0]
