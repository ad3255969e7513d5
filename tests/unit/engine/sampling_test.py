"""Sampling: which candidates are kept, and the distribution among them."""

from typing import Any

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


def defined(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Probabilities f64[5] by the definition, token after token."""
    p = np.exp(LOGITS.astype(np.float64))
    p[top_k or len(p) :] = 0
    p /= p.sum()
    kept = [
        i for i in range(len(p)) if i == 0 or (p[:i].sum() <= top_p and p[i] >= min_p * p.max())
    ]
    tempered = np.where(p > 0, np.exp(LOGITS.astype(np.float64) / temperature), 0)
    tempered[[i for i in range(len(p)) if i not in kept]] = 0
    return np.asarray(tempered / tempered.sum())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5},
        {"temperature": 1.0},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_k": 2, "temperature": 4.0},
        {"top_p": 0.5},
        {"top_p": 0.8, "temperature": 0.7},
        {"min_p": 0.2},
        {"min_p": 0.1, "temperature": 3.0},
        {"top_k": 4, "top_p": 0.95, "min_p": 0.3, "temperature": 1.5},
    ],
    ids=str,
)
def test_draws_follow_the_definition(options: dict[str, Any]) -> None:
    counts = np.bincount(draw(**options), minlength=len(LOGITS))
    wanted = defined(**options)
    assert counts[wanted == 0].sum() == 0
    kept = wanted > 0
    # The seeds are fixed: this fails always or never.
    assert stats.chisquare(counts[kept], wanted[kept] * DRAWS).pvalue > 1e-3


@pytest.mark.parametrize(("top_k", "kept"), [(1, 1), (3, 3), (0, 5), (99, 5)])
def test_top_k_keeps_the_best(top_k: int, kept: int) -> None:
    assert set(draw(3.0, top_k=top_k)) == set(range(kept))


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.4, 1), (0.5, 2), (0.95, 4), (1.0, 5)])
def test_top_p_keeps_the_smallest_prefix_whose_mass_exceeds_it(top_p: float, kept: int) -> None:
    # The masses are 0.463, 0.281, 0.170, 0.063, 0.023.
    assert set(draw(5.0, top_p=top_p)) == set(range(kept))


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, 5), (0.1, 4), (0.2, 3), (0.6, 2), (1.0, 1)])
def test_min_p_keeps_what_has_that_share_of_the_best(min_p: float, kept: int) -> None:
    # The masses are 1, 0.607, 0.368, 0.135, 0.050 times the best.
    assert set(draw(5.0, min_p=min_p)) == set(range(kept))


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
