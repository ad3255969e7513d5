"""The host's side of the choice of tokens: what each request asks for, and what a step is told.

Most requests are told to the device by their row parameters once and for all (saxml.engine.choice).
This is about the others: those with penalties, biases, stop tokens of their own that are barred, or
a temperature a sample.
"""

import dataclasses
from collections.abc import Container, Mapping

import jax
import numpy as np

from saxml import native
from saxml.common import errors
from saxml.engine import adjustments, choice
from saxml.engine.adjustments import Adjuster
from saxml.engine.decoders import Continue, Decoder, Ints, SampleDecoder, ScoreDecoder
from saxml.engine.options import EngineOptions
from saxml.engine.sampling_params import SamplingParams

Offsets = Mapping[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Own:
    """What one request needs in each of its steps."""

    adjuster: Adjuster | None
    temperatures: tuple[float, ...] | None


class Choosing:
    """All requests of an engine. `register` may be called from any thread, the rest belongs to the
    engine's."""

    def __init__(
        self,
        options: EngineOptions,
        vocab_size: int,
        offsets: Mapping[int, Offsets],
        placement: jax.sharding.Sharding,
    ) -> None:
        """offsets: of the packed plans of each bucket; placement: of the changes on the device."""
        self._options = options
        self._vocab_size = vocab_size
        self._offsets = offsets
        self._capacity = {
            bucket: adjustments.capacity(options, vocab_size, min(bucket, options.max_rows))
            for bucket in offsets
        }
        # What a step gets that has nothing to change: on the device once and for all.
        self.nothing: dict[int, jax.Array] = {
            bucket: jax.device_put(adjustments.nothing(size), placement)
            for bucket, size in self._capacity.items()
        }
        self._own: dict[int, _Own] = {}

    def register(
        self, request_id: int, prompt: Ints, decoder: Decoder, params: SamplingParams
    ) -> np.ndarray:
        """The row parameters of a request that is about to be queued.

        Raises InvalidArgumentError for what its decoder or the engine cannot give.
        """
        self._check(decoder, params)
        if not isinstance(decoder, SampleDecoder):
            asked = decoder.logprobs if isinstance(decoder, ScoreDecoder) else 0
            return choice.row_params(params, logprobs=asked)
        decoder.prepare(params)
        adjuster = adjustments.adjuster(
            self._options,
            params,
            prompt,
            num_samples=decoder.width,
            max_new_tokens=decoder.max_new_tokens,
            stop_ids=decoder.stop_ids,
        )
        temperatures = params.temperature if isinstance(params.temperature, tuple) else None
        if adjuster is not None or temperatures is not None:
            self._own[request_id] = _Own(adjuster, temperatures)
        engines = decoder.stop_ids == frozenset(self._options.stop_ids)
        first_stop = len(prompt) + params.min_steps if engines else 0
        return choice.row_params(params, first_stop=first_stop, logprobs=params.logprobs)

    def _check(self, decoder: Decoder, params: SamplingParams) -> None:
        asked = decoder.logprobs if isinstance(decoder, ScoreDecoder) else params.logprobs
        if asked > self._options.max_logprobs:
            raise errors.InvalidArgumentError(
                f"logprobs is {asked}; this model reports at most {self._options.max_logprobs}"
                " (max_logprobs)"
            )
        if outside := [t for t in params.logit_bias if t >= self._vocab_size]:
            raise errors.InvalidArgumentError(
                f"logit_bias has token {outside[0]}, outside the vocabulary of {self._vocab_size}"
            )
        if not isinstance(decoder, SampleDecoder):
            if params.has_penalties or params.logprobs:
                raise errors.InvalidArgumentError(
                    "penalties, logit_bias and logprobs are for requests that sample"
                )
        elif isinstance(params.temperature, tuple) and len(params.temperature) != decoder.width:
            raise errors.InvalidArgumentError(
                f"temperature has {len(params.temperature)} values for {decoder.width} samples;"
                " give one for each, or one number"
            )

    def changes(self, plan: native.StepPlan, alive: Container[int]) -> np.ndarray | jax.Array:
        """What goes to the device with a plan, whose temperatures are set; forgets requests that
        are no longer alive."""
        for request_id in list(self._own):
            if request_id not in alive:
                del self._own[request_id]
        if not self._own:
            return self.nothing[plan.bucket]
        offsets, count = self._offsets[plan.bucket], plan.num_entries
        first = offsets["entry_sample"][0]
        samples = plan.packed[first : first + count]
        first, length = offsets["entry_params"]
        words = plan.packed[first : first + length].reshape(-1, choice.ROW_PARAMS)[:count]
        found = []
        for entry, (owner, sample) in enumerate(
            zip(plan.entry_request.tolist(), samples.tolist(), strict=True)
        ):
            own = self._own.get(owner)
            if own is None:
                continue
            if own.temperatures is not None:
                choice.write_temperature(words[entry], own.temperatures[sample])
            if own.adjuster is not None:
                rows = own.adjuster.changes(sample)
                if rows.shape[1]:
                    found.append((entry, rows))
        if not found:
            return self.nothing[plan.bucket]
        return adjustments.pack(self._capacity[plan.bucket], found)

    def needs_tokens(self, request_id: int) -> bool:
        """Whether the next step of a request can be told only when its last tokens are known."""
        own = self._own.get(request_id)
        return own is not None and own.adjuster is not None

    def chosen(self, request_id: int, going_on: Continue) -> None:
        """Takes note of the tokens that a request goes on with."""
        own = self._own.get(request_id)
        if own is None or own.adjuster is None or going_on.samples is None:
            return
        for sample, token in zip(going_on.samples.tolist(), going_on.tokens.tolist(), strict=True):
            own.adjuster.add(sample, token)
