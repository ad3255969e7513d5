"""Ragged paged attention against attention written out for one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.ops import attention

# One shape for all cases, so that few programs are compiled: the rest is padding.
T, R = 160, 7
LAYERS, E = 2, 8
LAYER = 1


def naive(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """q f[H, E], keys and values f[n, K, E] -> f[H, E]."""
    H, K = q.shape[0], keys.shape[1]
    out = np.zeros_like(q)
    for head in range(H):
        group = head * K // H
        scores = keys[:, group] @ q[head]
        weights = np.exp(scores - scores.max())
        out[head] = weights / weights.sum() @ values[:, group]
    return out


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    page_size=st.sampled_from([4, 16]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (4, 4)]),
    decode_lengths=st.lists(st.integers(1, 60), max_size=4),
    prefill=st.lists(st.tuples(st.integers(0, 30), st.integers(2, 70)), max_size=2),
)
def test_rows_of_any_length_equal_one_token_at_a_time(
    seed: int,
    page_size: int,
    heads: tuple[int, int],
    decode_lengths: list[int],
    prefill: list[tuple[int, int]],
) -> None:
    rng = np.random.default_rng(seed)
    H, K = heads
    rows = [(n - 1, 1) for n in decode_lengths] + prefill  # (tokens before, tokens now)
    max_pages = -(-100 // page_size)
    num_pages = max_pages * R
    kept = rng.normal(size=(LAYERS, num_pages, page_size, 2, K, E)).astype(np.float32)
    table = rng.permutation(num_pages)[: max_pages * R].reshape(R, max_pages).astype(np.int32)
    q = rng.normal(size=(T, H, E)).astype(np.float32)
    kv = rng.normal(size=(T, 2, K, E)).astype(np.float32)

    slots = np.full(T, num_pages * page_size, np.int32)
    q_start = np.zeros(R + 1, np.int32)
    kv_len = np.zeros(R, np.int32)
    after = kept.copy()
    wanted = np.zeros_like(q)
    token = 0
    for r, (before, now) in enumerate(rows):
        q_start[r] = token
        kv_len[r] = before + now
        for position in range(before, before + now):
            page, offset = table[r, position // page_size], position % page_size
            slots[token] = page * page_size + offset
            after[LAYER, page, offset] = kv[token]
            flat = after[LAYER, table[r]].reshape(-1, 2, K, E)[: position + 1]
            wanted[token] = naive(q[token], flat[:, 0], flat[:, 1])
            token += 1
    q_start[len(rows) :] = token
    batch = attention.RaggedBatch(
        slots=jnp.array(slots),
        q_start=jnp.array(q_start),
        kv_len=jnp.array(kv_len),
        page_table=jnp.array(table),
        num_rows=jnp.int32(len(rows)),
        num_decode_rows=jnp.int32(len(decode_lengths)),
    )
    out, pages = jax.jit(attention.ragged_paged_attention)(
        jnp.array(q),
        jnp.array(kv[:, 0]),
        jnp.array(kv[:, 1]),
        jnp.array(kept),
        jnp.int32(LAYER),
        batch,
    )
    # 1e-5: float32 sums of at most 100 terms, in another order.
    np.testing.assert_allclose(out[:token], wanted[:token], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(pages, after)
    assert np.isfinite(out).all()


def test_pages_are_copied_before_use_and_only_as_many_as_asked() -> None:
    pages = jnp.arange(LAYERS * 5.0).reshape(LAYERS, 5, 1, 1, 1, 1)
    pages = jnp.broadcast_to(pages, (LAYERS, 5, 4, 2, 1, 1))
    source, target = jnp.array([0, 1, 2]), jnp.array([3, 4, 0])
    copied = jax.jit(attention.copy_pages)(pages, source, target, jnp.int32(2))
    np.testing.assert_array_equal(copied[:, 3], pages[:, 0])
    np.testing.assert_array_equal(copied[:, 4], pages[:, 1])
    np.testing.assert_array_equal(copied[:, :3], pages[:, :3])


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.sampled_from([1, 5, 64, 65, 150]),
    heads=st.sampled_from([(1, 1), (4, 2), (4, 4)]),
)
def test_causal_attention_equals_one_token_at_a_time(
    seed: int, length: int, heads: tuple[int, int]
) -> None:
    (H, K), rng = heads, np.random.default_rng(seed)
    q = rng.standard_normal((length, H, E), np.float32)
    k, v = rng.standard_normal((2, length, K, E), np.float32)
    out = attention.causal_attention(jnp.array(q), jnp.array(k), jnp.array(v))
    wanted = [naive(q[t], k[: t + 1], v[: t + 1]) for t in range(length)]
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def test_causal_attention_has_the_derivative_of_its_formula() -> None:
    rng = np.random.default_rng(1)
    q, k, v, weight = (jnp.array(rng.standard_normal((70, 2, E), np.float32)) for _ in range(4))

    def plainly(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = jnp.einsum("che,she->hcs", q, k)
        seen = jnp.where(jnp.tril(jnp.ones((70, 70), bool)), scores, -jnp.inf)
        return jnp.einsum("hcs,she->che", jax.nn.softmax(seen), v)

    def total(attend, *operands: jax.Array) -> jax.Array:  # type: ignore[no-untyped-def]
        return jnp.vdot(attend(*operands), weight)

    for place in range(3):
        found, wanted = (
            jax.grad(lambda *a, f=f: total(f, *a), argnums=place)(q, k, v)
            for f in (attention.causal_attention, plainly)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
