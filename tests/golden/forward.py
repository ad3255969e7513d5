"""A whole prompt through a model by itself, without the engine."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from saxml.checkpoint import pax
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.ops import attention
from saxml.ops.backend import PLAIN, Backend

PAGE = 16


def prompt_logits(
    config: ModelConfig, path: str, longest: int, backend: Backend = PLAIN
) -> Callable[[np.ndarray], np.ndarray]:
    """The model at `path` in float32 as a function of one prompt: i32[n] -> f32[n, V], n at most
    `longest`, a multiple of 16."""
    family = registry.family(config)
    restored = pax.restore(path, registry.parameters(config), dtype=jnp.float32)
    prepared = backend.pack(registry.prepare(config, restored), family.products(config))
    T, pages_per_row = longest, longest // PAGE

    @jax.jit
    def run(weights: dict[str, jax.Array], tokens: jax.Array, length: jax.Array) -> jax.Array:
        positions = jnp.arange(T, dtype=jnp.int32)
        batch = attention.RaggedBatch(
            slots=jnp.where(positions < length, positions, T),
            q_start=jnp.stack([jnp.int32(0), length]),
            kv_len=length[None],
            page_table=jnp.arange(pages_per_row, dtype=jnp.int32)[None],
            num_rows=jnp.int32(1),
            num_decode_rows=jnp.int32(0),
        )
        pages = backend.make_pages(
            config.num_layers, pages_per_row, PAGE, config.heads, jnp.float32
        )
        attend = backend.attend(batch, config.heads, PAGE)
        embedded = backend.activations(family.embed(weights, tokens))
        hidden, _ = family.forward(config, weights, embedded, positions, attend, pages, length)
        return family.logits(config, weights, hidden)

    def call(prompt: np.ndarray) -> np.ndarray:
        tokens = np.zeros(T, np.int32)
        tokens[: len(prompt)] = prompt
        return np.asarray(run(prepared, tokens, jnp.int32(len(prompt))))[: len(prompt)]

    return call
