"""The device's part of a step: one jitted function from a packed plan to one packed result."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from saxml.engine import choice, result
from saxml.engine.options import EngineOptions
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.ops import attention

Offsets = Mapping[str, tuple[int, int]]


def make_step(config: ModelConfig, options: EngineOptions, bucket: int, offsets: Offsets):  # type: ignore[no-untyped-def]
    """step(params, pages, packed i32[...], changes, before i32[max_rows]) -> (result f32[N, width],
    hidden f[T, D], chosen i32[max_rows], pages), for plans of this bucket.

    chosen are the entries' tokens; `before` are those of the last step, which a plan refers to by
    its token_source where it was made before they were known.
    changes: of logits, see saxml.engine.adjustments. result: see saxml.engine.result. hidden are
    the states of all its tokens after the final norm, left on the device for whoever wants them.
    """
    family = registry.family(config)
    R = min(bucket, options.max_rows)

    def step(
        params: Mapping[str, jax.Array],
        pages: jax.Array,
        packed: jax.Array,
        changes: jax.Array,
        before: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        def field(name: str) -> jax.Array:
            start, length = offsets[name]
            return packed[start : start + length]

        header = field("header")
        pages = attention.copy_pages(pages, field("copy_src"), field("copy_dst"), header[4])
        batch = attention.RaggedBatch(
            slots=field("slots"),
            q_start=field("q_start"),
            kv_len=field("kv_len"),
            page_table=field("page_table").reshape(R, -1),
            num_rows=header[1],
            num_decode_rows=header[2],
        )
        attend = options.backend.attend(batch, config.heads, options.page_size)
        source = field("token_source")
        tokens = jnp.where(source < 0, field("tokens"), before[jnp.maximum(source, 0)])
        embedded = options.backend.activations(family.embed(params, tokens))
        hidden, pages = family.forward(
            config, params, embedded, field("positions"), attend, pages, header[0]
        )
        logits = family.logits(config, params, hidden[field("entry_token")], header[3])
        entries = choice.Entries(
            params=field("entry_params").reshape(R, -1),
            target=field("entry_target"),
            sample=field("entry_sample"),
            position=field("entry_position"),
            valid=header[3],
        )
        found = choice.choose(options, logits, entries, changes)
        chosen = jnp.zeros(options.max_rows, jnp.int32)
        chosen = chosen.at[:R].set(found[:, result.TOKEN].astype(jnp.int32))
        return found, hidden, chosen, pages

    return step
