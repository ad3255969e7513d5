"""Penalties, biases and barred tokens: changes of single logits, row by row.

The host keeps, for each sample of a request that asks for any, the distinct tokens concerned and
what happens to each (Adjuster). A step gets the changes of all its entries as one flat array of a
fixed capacity (pack); where no request of a step asks for any, it gets a constant one that says so,
and the device skips the work. A change makes of a logit x, in the order of
saxml.engine.sampling_params,

    x + bias,  then divided by `repetition` where positive and multiplied where negative,  - penalty
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from saxml.common import errors
from saxml.engine.options import EngineOptions
from saxml.engine.sampling_params import MAX_LOGIT_BIAS, SamplingParams

# Rows of a sample's changes, and sections of a packed array after the entry's number: token, and
# as float bits bias, repetition, penalty.
_TOKEN, _BIAS, _REPETITION, _PENALTY = range(4)
_BLOCK = 512
MAX_STOP_IDS = 128  # of a request, to be barred


class Adjuster:
    """The changes of one request's logits. The engine's thread owns it."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: np.ndarray,
        *,
        num_samples: int,
        max_new_tokens: int,
        barred: Sequence[int] = (),
    ) -> None:
        """prompt: i32[n]; barred: tokens that may not be chosen before params.min_steps."""
        self._params = params
        self._min_steps = params.min_steps if barred else 0
        read = np.unique(prompt) if params.repetition_penalty != 1 else np.empty(0, np.int32)
        tokens = np.unique(np.concatenate([read, list(params.logit_bias), list(barred)]))
        places = {token: place for place, token in enumerate(tokens.astype(int).tolist())}
        first = len(tokens)
        # Every new token may need a place, but none is needed for what has no penalty.
        counts = params.repetition_penalty != 1 or bool(
            params.presence_penalty or params.frequency_penalty
        )
        self._grows = counts
        capacity = first + max_new_tokens * counts
        self._rows = np.zeros((num_samples, 4, capacity), np.int32)
        floats = self._rows.view(np.float32)
        floats[:, _REPETITION] = 1
        self._rows[:, _TOKEN, :first] = tokens
        for token, bias in params.logit_bias.items():
            floats[:, _BIAS, places[token]] = bias
        floats[:, _REPETITION, np.searchsorted(tokens, read)] = params.repetition_penalty
        self._barred = np.array([places[token] for token in barred], np.int64)
        self._bias = floats[0, _BIAS, self._barred]  # of the barred tokens, afterwards
        if self._min_steps:
            floats[:, _BIAS, self._barred] = -np.inf
        self._floats = floats
        self._places = [places] + [dict(places) for _ in range(num_samples - 1)]
        self._generated = [set[int]() for _ in range(num_samples)]
        self._lengths = [0] * num_samples

    def changes(self, sample: int) -> np.ndarray:
        """i32[4, n]: the changes of the sample's next logits."""
        if self._lengths[sample] >= self._min_steps and not self._params.has_penalties:
            return self._rows[sample, :, :0]
        return self._rows[sample, :, : len(self._places[sample])]

    def add(self, sample: int, token: int) -> None:
        """Takes note of a token that the sample goes on with."""
        self._lengths[sample] += 1
        if self._lengths[sample] == self._min_steps:
            self._floats[sample, _BIAS, self._barred] = self._bias
        if not self._grows:
            return
        places, p = self._places[sample], self._params
        place = places.setdefault(token, len(places))
        self._rows[sample, _TOKEN, place] = token
        self._floats[sample, _REPETITION, place] = p.repetition_penalty
        self._floats[sample, _PENALTY, place] += p.frequency_penalty
        if token not in self._generated[sample]:
            self._generated[sample].add(token)
            self._floats[sample, _PENALTY, place] += p.presence_penalty


def adjuster(
    options: EngineOptions,
    params: SamplingParams,
    prompt: np.ndarray,
    *,
    num_samples: int,
    max_new_tokens: int,
    stop_ids: frozenset[int],
) -> Adjuster | None:
    """What a request needs. None: its logits are not changed here; the device bars the engine's own
    stop tokens by position."""
    own: list[int] = []
    if params.min_steps and stop_ids != frozenset(options.stop_ids):
        own = sorted(token for token in stop_ids if token >= 0)  # -1 would be the last token
    if len(own) > MAX_STOP_IDS:
        raise errors.InvalidArgumentError(
            f"min_steps with {len(own)} stop tokens that are not the model's own; at most"
            f" {MAX_STOP_IDS}"
        )
    if not params.has_penalties and not own:
        return None
    return Adjuster(
        params,
        prompt,
        num_samples=num_samples,
        max_new_tokens=max_new_tokens,
        barred=own,
    )


def capacity(options: EngineOptions, vocab_size: int, rows: int) -> int:
    """Changes that a step of so many rows can need at most, rounded up to whole blocks."""
    row = min(vocab_size, options.max_model_len + MAX_LOGIT_BIAS + MAX_STOP_IDS)
    return -(-rows * row // _BLOCK) * _BLOCK


def nothing(size: int) -> np.ndarray:
    """i32[1 + 5 * size]: no changes; `size` is a capacity."""
    return np.zeros(1 + 5 * size, np.int32)


def pack(size: int, changes: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """(entry, i32[4, n]) pairs -> i32[1 + 5 * size]: their number, then five sections of `size`."""
    packed = np.empty(1 + 5 * size, np.int32)
    sections = packed[1:].reshape(5, size)
    end = 0
    for entry, rows in changes:
        begin, end = end, end + rows.shape[1]
        sections[0, begin:end] = entry
        sections[1:, begin:end] = rows
    packed[0] = end
    return packed


def present(packed: jax.Array) -> jax.Array:
    """bool: whether there are any."""
    return packed[0] > 0


def apply(packed: jax.Array, logits: jax.Array) -> jax.Array:
    """logits f32[N, V] with the changes made."""
    sections = packed[1:].reshape(5, -1)
    N = logits.shape[0]

    def block(i: jax.Array, logits: jax.Array) -> jax.Array:
        entry, token, *words = jax.lax.dynamic_slice_in_dim(sections, i * _BLOCK, _BLOCK, 1)
        bias, repetition, penalty = (jax.lax.bitcast_convert_type(w, jnp.float32) for w in words)
        entry = jnp.where(i * _BLOCK + jnp.arange(_BLOCK) < packed[0], entry, N)
        x = logits.at[entry, token].get(mode="clip") + bias
        x = jnp.where(x > 0, x / repetition, x * repetition) - penalty
        return logits.at[entry, token].set(x, mode="drop")

    changed: jax.Array = jax.lax.fori_loop(0, (packed[0] + _BLOCK - 1) // _BLOCK, block, logits)
    return changed
