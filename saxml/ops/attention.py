"""Ragged paged attention: rows of different lengths, prefill chunks and decode tokens, in one call.

Contract of ragged_paged_attention(q, k, v, pages, layer, batch) -> (out, pages):
  q         f[T, H, E]   already scaled; the T tokens of the step, rows one after another, decode
  rows first k, v      f[T, K, E]   written to `batch.slots` of `pages` at `layer` before anything
  is read pages     f[L, P, S, 2, K, E]
  out       f[T, H, E]   for token t of row r: softmax over the row's keys up to t's own position
Tokens past the rows' ends get zeros or garbage, never NaN; slots out of range are not written.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from saxml.ops import rotary
from saxml.ops.heads import Heads

# Keys read by one turn of the loop over a row's context, and queries of a prefill chunk computed
# together.
KEY_BLOCK = 128
QUERY_TILE = 64
_MASKED = -1e30


Cache = TypeVar("Cache")

# What a model calls for each layer: (queries, keys and values as `linear.project` gives them, in
# one array or three, neither rotated nor scaled, angles f32[T, rotary_dim / 2], cache, layer)
# -> (out f[T, H * E], cache). The cache is whatever the one that attends keeps between layers.
Attend = Callable[[tuple[jax.Array, ...], jax.Array, Cache, jax.Array], tuple[jax.Array, Cache]]
# The same with q f[T, H, E] rotated and scaled, k and v f[T, K, E] -> (out f[T, H, E], cache).
AttendHeads = Callable[[jax.Array, jax.Array, jax.Array, Cache, jax.Array], tuple[jax.Array, Cache]]


def by_heads(attend: AttendHeads[Cache], heads: Heads) -> Attend[Cache]:
    """Cuts into heads, rotates and scales for one who attends."""

    def cut(
        qkv: tuple[jax.Array, ...], angles: jax.Array, cache: Cache, layer: jax.Array
    ) -> tuple[jax.Array, Cache]:
        T = angles.shape[0]
        q, k, v = (a.reshape(T, -1, heads.dim) for a in qkv)
        q, k = (rotary.rotate(a, angles, heads.style) for a in (q, k))
        out, cache = attend(q * heads.scale, k, v, cache, layer)
        return out.reshape(T, -1), cache

    return cut


class RaggedBatch(NamedTuple):
    """Where the step's tokens belong. R rows, R <= T; MP pages a row at most.

    slots i32[T] (page * S + offset), q_start i32[R + 1], kv_len i32[R] (after this step),
    page_table i32[R, MP], num_rows i32, num_decode_rows i32 (these have one token each and come
    first).
    """

    slots: jax.Array
    q_start: jax.Array
    kv_len: jax.Array
    page_table: jax.Array
    num_rows: jax.Array
    num_decode_rows: jax.Array


def make_pages(
    num_layers: int,
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: jnp.dtype,
) -> jax.Array:
    """An empty pool: f[L, P, S, 2, K, E]."""
    return jnp.zeros((num_layers, num_pages, page_size, 2, num_kv_heads, head_dim), dtype)


def copy_pages(
    pages: jax.Array, source: jax.Array, target: jax.Array, count: jax.Array
) -> jax.Array:
    """pages[:, target[i]] <- pages[:, source[i]] for i < count; source, target: i32[R]."""

    def copy(i: jax.Array, pages: jax.Array) -> jax.Array:
        page = jax.lax.dynamic_slice_in_dim(pages, source[i], 1, 1)
        return jax.lax.dynamic_update_slice_in_dim(pages, page, target[i], 1)

    copied: jax.Array = jax.lax.fori_loop(0, count, copy, pages)
    return copied


def ragged_paged_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pages: jax.Array,
    layer: jax.Array,
    batch: RaggedBatch,
) -> tuple[jax.Array, jax.Array]:
    """See the module's contract; this is the implementation in plain JAX, for every backend."""
    S = pages.shape[2]
    kv = jnp.stack([k, v], 1).astype(pages.dtype)
    pages = pages.at[layer, batch.slots // S, batch.slots % S].set(kv, mode="drop")
    out = _decode_rows(q, pages, layer, batch)
    return _prefill_rows(q, out, pages, layer, batch), pages


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """One sequence against itself, without pages; can be differentiated.

    q f[T, H, E] already scaled, k and v f[T, K, E] -> f[T, H, E]: for each token softmax over the
    tokens up to itself, in float32. Tokens at the end that are padding change nothing before them.
    A tile of queries is computed at a time, and computed again for its derivative, so that no more
    than H * QUERY_TILE * T weights are held.
    """
    T, H, E = q.shape
    K, tile = k.shape[1], min(T, QUERY_TILE)
    keys, values = k.astype(jnp.float32), v.astype(jnp.float32)
    tiles = jnp.pad(q.astype(jnp.float32), ((0, -T % tile), (0, 0), (0, 0)))

    @jax.checkpoint
    def attend(start: jax.Array, queries: jax.Array) -> jax.Array:
        scores = jnp.einsum("ckge,ske->kgcs", queries.reshape(tile, K, H // K, E), keys)
        visible = jnp.arange(T) <= start + jnp.arange(tile)[:, None]
        weights = jax.nn.softmax(jnp.where(visible, scores, _MASKED), axis=-1)
        return jnp.einsum("kgcs,ske->ckge", weights, values).reshape(tile, H, E)

    starts = jnp.arange(0, tiles.shape[0], tile)
    out: jax.Array = jax.lax.map(
        lambda piece: attend(*piece), (starts, tiles.reshape(-1, tile, H, E))
    )
    return out.reshape(-1, H, E)[:T].astype(q.dtype)


def _decode_rows(q: jax.Array, pages: jax.Array, layer: jax.Array, batch: RaggedBatch) -> jax.Array:
    """Attention of the rows with one token, all at once; zeros elsewhere."""
    T, R = q.shape[0], batch.kv_len.shape[0]
    alive = jnp.arange(R) < batch.num_decode_rows
    kv_len = jnp.where(alive, batch.kv_len, 0)
    attended = _attend(q[:R, None], pages, layer, batch.page_table, (kv_len - 1)[:, None], kv_len)
    return jnp.zeros_like(q).at[:R].set(attended[:, 0]) if R < T else attended[:, 0]


def _prefill_rows(
    q: jax.Array, out: jax.Array, pages: jax.Array, layer: jax.Array, batch: RaggedBatch
) -> jax.Array:
    """Adds the rows with several tokens to `out`, a tile of queries at a time.

    The tail of a row's last tile lies on the next row's tokens; rows are computed in order, so it
    is overwritten.
    """
    T, tile = q.shape[0], min(q.shape[0], QUERY_TILE)
    q = jnp.pad(q, ((0, tile), (0, 0), (0, 0)))
    out = jnp.pad(out, ((0, tile), (0, 0), (0, 0)))

    def row(r: jax.Array, out: jax.Array) -> jax.Array:
        begin, end = batch.q_start[r], batch.q_start[r + 1]
        first_position = batch.kv_len[r] - (end - begin)
        table = jax.lax.dynamic_index_in_dim(batch.page_table, r)

        def tile_of(i: jax.Array, out: jax.Array) -> jax.Array:
            start = begin + i * tile
            position = first_position + i * tile + jnp.arange(tile)
            queries = jax.lax.dynamic_slice_in_dim(q, start, tile)[None]
            seen = jnp.minimum(batch.kv_len[r], first_position + (i + 1) * tile)[None]
            attended = _attend(queries, pages, layer, table, position[None], seen)
            return jax.lax.dynamic_update_slice_in_dim(out, attended[0], start, 0)

        row_out: jax.Array = jax.lax.fori_loop(0, (end - begin + tile - 1) // tile, tile_of, out)
        return row_out

    done: jax.Array = jax.lax.fori_loop(batch.num_decode_rows, batch.num_rows, row, out)
    return done[:T]


def _attend(
    q: jax.Array,
    pages: jax.Array,
    layer: jax.Array,
    page_table: jax.Array,
    position: jax.Array,
    kv_len: jax.Array,
) -> jax.Array:
    """q f[B, C, H, E], page_table i32[B, MP], position i32[B, C], kv_len i32[B] -> f[B, C, H, E].

    Softmax in float32, one block of keys after another with a running maximum (Milakov & Gimelshein
    2018).
    """
    B, C, H, E = q.shape
    S, K = pages.shape[2], pages.shape[4]
    MP = page_table.shape[1]
    block = min(max(KEY_BLOCK // S, 1), MP)
    page_table = jnp.pad(page_table, ((0, 0), (0, -MP % block)))
    grouped = q.astype(jnp.float32).reshape(B, C, K, H // K, E)

    def step(
        i: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        top, mass, total = carry
        chosen = jax.lax.dynamic_slice_in_dim(page_table, i * block, block, 1)
        kv = pages[layer, chosen].astype(jnp.float32).reshape(B, block * S, 2, K, E)
        key_position = i * block * S + jnp.arange(block * S)
        # Behind a row's end lies what others left, and a weight of 0 does not make NaN harmless.
        written = key_position < kv_len[:, None]
        kv = jnp.where(written[..., None, None, None], kv, 0)
        scores = jnp.einsum("bckge,bske->bkgcs", grouped, kv[:, :, 0])
        visible = (key_position <= position[..., None]) & (key_position < kv_len[:, None, None])
        scores = jnp.where(visible[:, None, None], scores, _MASKED)
        new_top = jnp.maximum(top, scores.max(-1))
        weights = jnp.exp(scores - new_top[..., None]) * visible[:, None, None]
        shrink = jnp.exp(top - new_top)
        mass = mass * shrink + weights.sum(-1)
        total = total * shrink[..., None] + jnp.einsum("bkgcs,bske->bkgce", weights, kv[:, :, 1])
        return new_top, mass, total

    shape = (B, K, H // K, C)
    carry = (jnp.full(shape, _MASKED), jnp.zeros(shape), jnp.zeros((*shape, E)))
    blocks = (kv_len.max() + block * S - 1) // (block * S)
    _, mass, total = jax.lax.fori_loop(0, blocks, step, carry)
    out = total / jnp.maximum(mass, 1e-30)[..., None]
    return jnp.moveaxis(out, 3, 1).reshape(B, C, H, E).astype(q.dtype)
