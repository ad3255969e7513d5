"""The device's choice of tokens: from the logits of a step's entries to its packed result."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from saxml.engine import adjustments, sampling
from saxml.engine.options import EngineOptions
from saxml.engine.result import LEAST_LOGP
from saxml.engine.sampling_params import SamplingParams

# Words that a request carries to the device for each of its entries: temperature, top_p, min_p
# (float bits), top_k, seed, the first position at which a stop token may stand, and how many of the
# best tokens are reported.
ROW_PARAMS = 7
_TEMPERATURE = 0


class Entries(NamedTuple):
    """What is known of the N entries of a step besides their logits; i32, a row an entry."""

    params: jax.Array  # [N, ROW_PARAMS]
    target: jax.Array  # token whose log-probability is wanted, or -1
    sample: jax.Array
    position: jax.Array  # of the token to be chosen
    valid: jax.Array  # i32: how many count; nothing is said of those behind them


def row_params(params: SamplingParams, *, first_stop: int = 0, logprobs: int = 0) -> np.ndarray:
    """i32[ROW_PARAMS]: the words of a request whose stop tokens may stand from position first_stop
    on, and that is told so many of the best tokens. Where temperatures differ among samples, the
    first one's; see write_temperature."""
    temperature = params.temperature
    first = temperature[0] if isinstance(temperature, tuple) else temperature
    floats = np.array([first, params.top_p, params.min_p], np.float32).view(np.int32)
    whole = np.array([params.top_k, params.seed, first_stop, logprobs], np.int32)
    return np.concatenate([floats, whole])


def write_temperature(words: np.ndarray, temperature: float) -> None:
    """Gives an entry, i32[ROW_PARAMS], the temperature of its sample."""
    words.view(np.float32)[_TEMPERATURE] = temperature


def choose(
    options: EngineOptions, logits: jax.Array, entries: Entries, changes: jax.Array
) -> jax.Array:
    """logits f32[N, V], changes as adjustments.pack makes them -> result f32[N, width], see
    saxml.engine.result."""
    V, stop_ids = logits.shape[1], jnp.array(options.stop_ids, jnp.int32)
    kept = min(V, options.top_k or V)
    num_best = min(V, max(options.num_candidates, options.max_logprobs))
    # To rank a whole vocabulary takes long; what draws nothing needs one.
    most = max(kept if options.top_k else 1, num_best)
    ranking = options.backend.rank(logits, most, entries.valid)
    floats = jax.lax.bitcast_convert_type(entries.params[:, :3], jnp.float32)
    barred = entries.position < entries.params[:, 5]

    def candidates(count: int) -> tuple[jax.Array, jax.Array]:
        def changed() -> tuple[jax.Array, jax.Array]:
            own = adjustments.apply(changes, logits)
            stops = jnp.where(barred[:, None], -jnp.inf, own[:, stop_ids])
            own = own.at[:, stop_ids].set(stops)
            return options.backend.rank(own, count, entries.valid).best(count)

        def unchanged() -> tuple[jax.Array, jax.Array]:
            if count <= most:
                return ranking.best(count)
            return options.backend.rank(logits, count, entries.valid).best(count)

        found: tuple[jax.Array, jax.Array] = jax.lax.cond(
            barred.any() | adjustments.present(changes), changed, unchanged
        )
        return found

    def drawn() -> jax.Array:
        values, ids = candidates(kept)
        rank = sampling.sample(
            values - values.max(-1, keepdims=True),
            temperature=floats[:, 0],
            top_k=entries.params[:, 3],
            top_p=floats[:, 1],
            min_p=floats[:, 2],
            keys=sampling.row_keys(entries.params[:, 4], entries.sample, entries.position),
        )
        return jnp.take_along_axis(ids, rank[:, None], 1)

    token = jax.lax.cond((floats[:, 0] > 0).any(), drawn, lambda: candidates(1)[1])
    told = jnp.concatenate([token, jnp.maximum(entries.target, 0)[:, None]], axis=1)

    def logp(scores: jax.Array) -> jax.Array:
        return jnp.maximum(ranking.logp(scores), LEAST_LOGP)

    best, best_ids = jax.lax.cond(
        jnp.bool_(options.num_candidates > 0) | (entries.params[:, 6] > 0).any(),
        lambda: ranking.best(num_best),
        lambda: (
            jnp.zeros((len(logits), num_best), logits.dtype),
            jnp.zeros((len(logits), num_best), jnp.int32),
        ),
    )
    pairs = jnp.stack([logp(best), best_ids.astype(jnp.float32)], axis=-1)
    columns = [
        token.astype(jnp.float32),
        logp(jnp.take_along_axis(logits, told, 1)),
        ranking.most + ranking.log_sum,
        pairs.reshape(len(logits), 2 * num_best),
        logp(logits[:, stop_ids]),
    ]
    return jnp.concatenate(columns, axis=1)
