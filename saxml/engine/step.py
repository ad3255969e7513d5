"""The device's part of a step: one jitted function from a packed plan to one packed result."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from saxml.common import errors
from saxml.engine import sampling
from saxml.engine.options import EngineOptions
from saxml.engine.sampling_params import SamplingParams
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.ops import attention

# Words a request carries to the device for each of its rows: temperature, top_p (float bits),
# top_k, seed.
ROW_PARAMS = 4

Offsets = Mapping[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True, slots=True)
class ResultColumns:
    """Where things stand in a step's result, f32[N, width]: one row an entry.

    Token ids are exact in float32 (they are far below 2**24).
    """

    num_stop: int
    num_candidates: int

    TOKEN = 0  # the sampled token
    LOGP = 1  # its log-probability, before temperature
    TARGET = 2  # log-probability of the entry's target

    @property
    def stop(self) -> slice:
        """Log-probability of each stop token."""
        return slice(3, 3 + self.num_stop)

    @property
    def candidate_logp(self) -> slice:
        """The best log-probabilities, descending."""
        return slice(3 + self.num_stop, 3 + self.num_stop + self.num_candidates)

    @property
    def candidate_id(self) -> slice:
        """Their tokens; of equal ones the lowest id stands first."""
        return slice(self.candidate_logp.stop, self.candidate_logp.stop + self.num_candidates)


def row_params(sampling: SamplingParams) -> np.ndarray:
    """i32[ROW_PARAMS]: what `_choose` reads back.

    Raises UnimplementedError for what it does not know.
    """
    s = sampling
    if isinstance(s.temperature, tuple) or s.min_p or s.has_penalties or s.min_steps or s.logprobs:
        raise errors.UnimplementedError(
            "the engine knows temperature (one for all samples), top_k, top_p and seed"
        )
    floats = np.array([s.temperature, s.top_p], np.float32).view(np.int32)
    return np.concatenate([floats, np.array([s.top_k, s.seed], np.int64).astype(np.int32)])


def make_step(config: ModelConfig, options: EngineOptions, bucket: int, offsets: Offsets):  # type: ignore[no-untyped-def]
    """step(params, pages, packed i32[...]) -> (result f32[N, width], hidden f[T, D], pages), for
    plans of this bucket; hidden are the states of all its tokens after the final norm, left on the
    device for whoever wants them."""
    family = registry.family(config)
    R = min(bucket, options.max_rows)

    def step(
        params: Mapping[str, jax.Array], pages: jax.Array, packed: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
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
        attend = functools.partial(attention.ragged_paged_attention, batch=batch)
        embedded = family.embed(params, field("tokens"))
        hidden, pages = family.forward(config, params, embedded, field("positions"), attend, pages)
        logits = family.logits(config, params, hidden[field("entry_token")])
        return _choose(options, logits, field), hidden, pages

    return step


def _choose(options: EngineOptions, logits: jax.Array, field) -> jax.Array:  # type: ignore[no-untyped-def]
    """logits f32[N, V] -> result f32[N, width], see ResultColumns."""
    logp = jax.nn.log_softmax(logits)
    V = logits.shape[1]
    kept = min(V, options.top_k or V)
    values, ids = jax.lax.top_k(logp, max(kept, min(V, options.num_candidates)))
    words = field("entry_params").reshape(-1, ROW_PARAMS)
    temperature, top_p = (jax.lax.bitcast_convert_type(words[:, i], jnp.float32) for i in range(2))
    rank = sampling.sample(
        values[:, :kept],
        temperature=temperature,
        top_k=words[:, 2],
        top_p=top_p,
        keys=sampling.row_keys(words[:, 3], field("entry_sample"), field("entry_position")),
    )
    columns = [
        jnp.take_along_axis(ids, rank[:, None], 1).astype(jnp.float32),
        jnp.take_along_axis(values, rank[:, None], 1),
        jnp.take_along_axis(logp, jnp.maximum(field("entry_target"), 0)[:, None], 1),
        logp[:, jnp.array(options.stop_ids, jnp.int32)],
        values[:, : options.num_candidates],
        ids[:, : options.num_candidates].astype(jnp.float32),
    ]
    return jnp.concatenate(columns, axis=1)
