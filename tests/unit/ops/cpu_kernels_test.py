"""The CPU kernels, called by XLA, against the same in plain JAX."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml import kernels
from saxml.ops import attention, cpu_kernels, norms, rotary

# What the kernel rounds activations and weights to; float32 sums in another order.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 8e-2}


@pytest.fixture(params=kernels.levels(), autouse=True, scope="module")
def level(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs at every level of this CPU."""
    kernels.set_level(request.param)
    yield
    kernels.set_level(kernels.levels()[-1])


def stacked(
    layers: list[list[cpu_kernels.Block]], element: cpu_kernels.Element, depth: int, columns: int
) -> cpu_kernels.Packed:
    stack = cpu_kernels.Stack(len(layers), element, depth, columns)
    for layer, blocks in enumerate(layers):
        stack.put(layer, blocks)
    return stack.packed()


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 40),
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=2),
    columns=st.integers(1, 80),
    element=st.sampled_from(["float32", "bfloat16", "int8"]),
    seed=st.integers(0, 2**31),
)
def test_a_product_is_what_the_definition_says(
    rows: int,
    widths: list[int],
    columns: int,
    element: cpu_kernels.Element,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    depth = sum(widths)
    inputs = [rng.normal(size=(rows, w)).astype(np.float32) for w in widths]
    stack = rng.normal(size=(3, depth, columns)).astype(np.float32) / np.sqrt(depth)
    bias = rng.normal(size=(3, columns)).astype(np.float32)
    residual = rng.normal(size=(rows, columns)).astype(np.float32)
    places, first = [], 0
    for width in widths:
        places.append(slice(first, first + width))
        first += width
    packed = stacked(
        [[cpu_kernels.Block(w[p], first_row=p.start) for p in places] for w in stack],
        element,
        depth,
        columns,
    )
    (y,) = jax.jit(
        lambda *x: cpu_kernels.linear(
            x,
            packed,
            jnp.int32(1),
            jnp.int32(rows),
            [cpu_kernels.Output(columns)],
            bias=jnp.array(bias),
            residual=jnp.array(residual),
        )
    )(*inputs)
    expected = np.concatenate(inputs, 1) @ stack[1] + bias[1] + residual
    np.testing.assert_allclose(y, expected, atol=_TOLERANCE[element] * 3, rtol=0)


def test_a_layer_of_a_gated_network() -> None:
    rng = np.random.default_rng(0)
    T, D, F = 9, 48, 64
    x = rng.normal(size=(T, D)).astype(np.float32)
    gate, up = (rng.normal(size=(2, D, F)).astype(np.float32) / 7 for _ in range(2))
    scale = rng.normal(size=(2, D)).astype(np.float32)
    packed = stacked(
        [
            [cpu_kernels.Block(g, layout="gate"), cpu_kernels.Block(u, layout="up")]
            for g, u in zip(gate, up, strict=True)
        ],
        "float32",
        D,
        2 * F,
    )
    (y,) = cpu_kernels.linear(
        [jnp.array(x)],
        packed,
        jnp.int32(1),
        jnp.int32(7),
        [cpu_kernels.Output(2 * F, activation="silu_gated")],
        norm=cpu_kernels.Norm(jnp.array(scale), None, "rms", 1e-5),
    )
    h = norms.rms_norm(jnp.array(x), jnp.array(scale[1]), 1e-5)
    expected = jax.nn.silu(h @ gate[1]) * (h @ up[1])
    np.testing.assert_allclose(y[:7], expected[:7], atol=2e-5)


@pytest.mark.parametrize("element", ["float32", "bfloat16"])
@pytest.mark.parametrize("style", ["pairs", "halves"])
def test_attention_is_that_of_plain_jax(element: str, style: str) -> None:
    rng = np.random.default_rng(1)
    L, P, S, K, H, E, rotary_dim = 2, 24, 16, 2, 4, 32, 16
    lengths, news = [20, 33, 33, 5, 40], [1, 1, 1, 5, 17]
    T, R = 32, 8
    table = np.zeros((R, 3), np.int32)
    table[:5] = rng.permutation(P)[:15].reshape(5, 3)
    table[2, :2] = table[1, :2]  # two rows share pages
    q_start = np.zeros(R + 1, np.int32)
    q_start[1:6] = np.cumsum(news)
    q_start[6:] = q_start[5]
    kv_len = np.array(lengths + [0] * 3, np.int32)
    slots = np.full(T, P * S, np.int32)
    positions = np.zeros(T, np.int32)
    for row, (length, new) in enumerate(zip(lengths, news, strict=True)):
        for i in range(new):
            at = length - new + i
            positions[q_start[row] + i] = at
            slots[q_start[row] + i] = table[row, at // S] * S + at % S
    shape = cpu_kernels.PageShape(kv_heads=K, head_dim=E, page_size=S, element=element)  # type: ignore[arg-type]
    pages = jnp.zeros((L, P, K, shape.head_units), jnp.uint32)
    plain = attention.make_pages(L, P, S, K, E, jnp.dtype(element))
    angles = rotary.angles(jnp.array(positions), rotary_dim, 1e4)
    cos, sin = cpu_kernels.rotary(angles, style)
    batch = attention.RaggedBatch(
        jnp.array(slots),
        jnp.array(q_start),
        jnp.array(kv_len),
        jnp.array(table),
        jnp.int32(5),
        jnp.int32(3),
    )

    def step(qkv: jax.Array, pages: jax.Array, rows: attention.RaggedBatch):  # type: ignore[no-untyped-def]
        return cpu_kernels.attention(
            qkv,
            pages,
            jnp.int32(1),
            shape=shape,
            heads=H,
            q_start=rows.q_start,
            kv_len=rows.kv_len,
            page_table=rows.page_table,
            num_rows=rows.num_rows,
            cos=cos,
            sin=sin,
            rotary_style=style,
            query_scale=E**-0.5,
            dtype=jnp.float32,
        )

    def reference(qkv: jax.Array, pages: jax.Array, rows: attention.RaggedBatch):  # type: ignore[no-untyped-def]
        q, k, v = jnp.split(qkv.reshape(T, H + 2 * K, E), [H, H + K], axis=1)
        q, k = (rotary.rotate(a, angles, style) for a in (q, k))
        return attention.ragged_paged_attention(q * E**-0.5, k, v, pages, jnp.int32(1), rows)

    # Twice: what the first call wrote is what the second one reads, where rows are not new.
    run = jax.jit(step, donate_argnums=1)
    for _ in range(2):
        qkv = jnp.array(rng.normal(size=(T, (H + 2 * K) * E)).astype(np.float32))
        where = pages.unsafe_buffer_pointer()
        out, pages = run(qkv, pages, batch)
        assert pages.unsafe_buffer_pointer() == where, "the pages were copied"
        expected, plain = jax.jit(reference)(qkv, plain, batch)
    used = int(q_start[5])
    np.testing.assert_allclose(
        out[:used].reshape(used, H, E), expected[:used], atol=_TOLERANCE[element] * 2
    )


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(2, 400),
    k=st.integers(1, 80),
    seed=st.integers(0, 2**31),
)
def test_top_k_is_that_of_jax(rows: int, columns: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Many are equal; none is -0.0, which jax.lax.top_k puts behind 0.0.
    rounded = np.round(rng.normal(size=(rows, columns)) * 3, 1).astype(np.float32) + 0.0
    logits = jnp.array(rounded)
    k = min(k, columns)
    top_k = jax.jit(cpu_kernels.top_k, static_argnums=1)
    values, indices, log_sum = top_k(logits, k, jnp.int32(rows))
    expected = jax.lax.top_k(logits, k)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    shifted = logits - logits.max(1, keepdims=True)
    np.testing.assert_allclose(log_sum, jax.nn.logsumexp(shifted, axis=1), rtol=2e-6, atol=2e-6)


def test_sizes_that_do_not_fit_are_refused_by_name() -> None:
    packed = stacked([[cpu_kernels.Block(np.zeros((8, 32), np.float32))]], "float32", 8, 32)
    with pytest.raises(Exception, match="packed weights of 1024 units for 1 matrices of 33 x 32"):
        jax.block_until_ready(
            cpu_kernels.linear(
                [jnp.zeros((2, 33))],
                packed,
                jnp.int32(0),
                jnp.int32(2),
                [cpu_kernels.Output(32)],
            )
        )
    with pytest.raises(ValueError, match="does not lie in a matrix of 8 x 32"):
        stacked([[cpu_kernels.Block(np.zeros((9, 32)))]], "float32", 8, 32)


@pytest.mark.parametrize("element", ["float32", "bfloat16", "int8"])
def test_columns_of_a_packed_matrix_are_its_own(element: cpu_kernels.Element) -> None:
    values = np.random.default_rng(0).normal(size=(45, 70)).astype(np.float32)
    packed = stacked([[cpu_kernels.Block(values)]], element, 45, 70)
    which = np.array([69, 0, 31, 32, 0], np.int32)
    found = np.asarray(jax.jit(cpu_kernels.columns)(packed, which), np.float32)
    scale = np.abs(values).max(0) / 127
    wanted = {
        "float32": values,
        "bfloat16": np.asarray(jnp.asarray(values).astype(jnp.bfloat16), np.float32),
        "int8": np.rint(values / scale) * scale,
    }[element]
    np.testing.assert_allclose(found, wanted.T[which], rtol=1e-6)


def test_the_memory_of_packed_weights_is_not_copied() -> None:
    stack = cpu_kernels.Stack(3, "float32", 512, 2048)
    first, second = stack.packed(), stack.packed()
    address = first.units.unsafe_buffer_pointer()
    assert address == second.units.unsafe_buffer_pointer()
    assert address % (2 << 20) == 0
