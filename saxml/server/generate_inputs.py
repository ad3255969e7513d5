"""What one request asks of its generation: extra inputs read by a configuration's rules."""

import dataclasses
import hashlib
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from saxml.common import errors
from saxml.engine.sampling_params import SamplingParams
from saxml.proto import common_pb2
from saxml.server import extra_inputs, logit_bias, stop_strings
from saxml.server.pax.lm.params.template import CommonServingTemplate

LOWEST_PRIORITY = -100
MAX_SALT_LENGTH = 256
# Nobody outside can look for a salt that another one's hash equals.
_SALT_KEY = secrets.token_bytes(32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestInputs:
    """What concerns the request as a whole. Higher priorities start first, and running requests of
    lower ones make way; prompts that begin alike share keys and values among requests with the same
    salt."""

    priority: int
    cache_salt: int

    @classmethod
    def parse(cls, merged: Mapping[str, Any], params: CommonServingTemplate) -> "RequestInputs":
        """Raises InvalidArgumentError that names the key, the value and the range."""
        highest = int(params.MAX_PRIORITY)
        return cls(
            priority=_whole(merged, "priority", min(0, highest), LOWEST_PRIORITY, highest),
            cache_salt=_salt(merged.get("cache_salt")),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerateInputs:
    """A text ends before the first of `stops`, and with `eos`, if there is one, instead of with the
    configuration's stop tokens. Log-probabilities of tokens are told, and of so many of the best
    ones in each place, unless that is None: of those that are generated, and of the prompt's."""

    request: RequestInputs
    sampling: SamplingParams
    num_samples: int
    max_steps: int
    eos: tuple[int, ...]
    stops: tuple[str, ...]
    logprobs: int | None
    prompt_logprobs: int | None

    @classmethod
    def parse(
        cls,
        sent: common_pb2.ExtraInputs,
        params: CommonServingTemplate,
        vocab_size: int,
        random_seed: Callable[[], int],
    ) -> "GenerateInputs":
        """random_seed: for a request that has none.

        Raises InvalidArgumentError that names the key, the value and the range.
        """
        beams = params.USE_BEAM_SEARCH
        merged = extra_inputs.merge(
            sent,
            params.EXTRA_INPUTS,
            always=extra_inputs.BEAM_KEYS if beams else extra_inputs.GENERATE_KEYS,
            dtypes=params.EXTRA_INPUTS_DTYPES,
        )
        eos = _eos(merged.get("eos_id"), vocab_size)
        if beams and eos:
            raise errors.InvalidArgumentError(
                "extra input eos_id is given; beams end with stop tokens alone (USE_BEAM_SEARCH);"
                " use STOP_TOKEN_IDS"
            )
        num_samples = _whole(merged, "num_samples", params.NUM_SAMPLES, 1, params.max_num_samples)
        most = params.max_decode_steps
        most_logprobs = min(params.MAX_LOGPROBS, vocab_size)
        logprobs = _optional(merged, "logprobs", most_logprobs)
        return cls(
            request=RequestInputs.parse(merged, params),
            sampling=_sampling(merged, params, num_samples, vocab_size, random_seed, logprobs or 0),
            num_samples=num_samples,
            max_steps=min(most, _whole(merged, "per_example_max_decode_steps", most, 1)),
            eos=eos,
            stops=stop_strings.parse(merged.get("stop"), params.MAX_STOP_STRINGS),
            logprobs=logprobs,
            prompt_logprobs=_optional(merged, "prompt_logprobs", most_logprobs),
        )


def _sampling(
    merged: Mapping[str, Any],
    params: CommonServingTemplate,
    num_samples: int,
    vocab_size: int,
    random_seed: Callable[[], int],
    logprobs: int,
) -> SamplingParams:
    top_k, top_k_key = _either(merged, "per_example_top_k", "top_k", 0)
    top_p, top_p_key = _either(merged, "per_example_top_p", "top_p", 1.0)
    temperature = merged.get("temperature", params.TEMPERATURE)
    if isinstance(temperature, list):
        if len(temperature) != num_samples:
            raise errors.InvalidArgumentError(
                f"extra input temperature has {len(temperature)} values for {num_samples} samples;"
                " send one for each, or one number"
            )
        temperature = tuple(temperature)
    bias = logit_bias.parse(merged.get("logit_bias"), vocab_size)
    min_steps = _whole(merged, "min_decode_steps", 0, 0)
    try:
        return SamplingParams(
            temperature=temperature,
            top_k=_plain(top_k),
            top_p=top_p,
            min_p=merged.get("min_p", 0.0),
            repetition_penalty=merged.get("repetition_penalty", 1.0),
            presence_penalty=merged.get("presence_penalty", 0.0),
            frequency_penalty=merged.get("frequency_penalty", 0.0),
            logit_bias=bias,
            seed=_seed(merged.get("seed"), random_seed),
            min_steps=min_steps,
            logprobs=logprobs,
        )
    except errors.InvalidArgumentError as e:
        text = str(e)
        for field, key in (("top_k is", top_k_key), ("top_p is", top_p_key)):
            if text.startswith(field):
                text = f"{key} is{text[len(field) :]}"
        raise errors.InvalidArgumentError(f"extra input {text}") from None


def _either(merged: Mapping[str, Any], key: str, other: str, default: Any) -> tuple[Any, str]:
    """SAX has two spellings; the first one counts where both are there."""
    for name in (key, other):
        if merged.get(name) is not None:
            return merged[name], name
    return default, key


def _plain(value: Any) -> Any:
    """Numbers come as floats: a whole one as an integer, anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _seed(value: Any, random_seed: Callable[[], int]) -> Any:
    """A float32 is exact up to 2^24 only, so that a seed may be written as a string, too."""
    if value is None or value == "":
        return random_seed()
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        return int(value)
    return _plain(value)


def _eos(value: Any, vocab_size: int) -> tuple[int, ...]:
    """Of SAX's spelling, a sequence of fixed length with zeros before it, or of one number."""
    if value is None:
        return ()
    ids = [_plain(item) for item in (value if isinstance(value, list) else [value])]
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
            raise errors.InvalidArgumentError(
                f"extra input eos_id is {value!r}; must be token ids below {vocab_size}, with zeros"
                " before them"
            )
    while ids and ids[0] == 0:
        del ids[0]
    return tuple(ids)


def _salt(value: Any) -> int:
    """64 bits that only an equal string gives."""
    if value is None or value == "":
        return 0
    if not isinstance(value, str) or len(value) > MAX_SALT_LENGTH:
        raise errors.InvalidArgumentError(
            f"extra input cache_salt is {str(value)[:40]!r}; must be a string of at most"
            f" {MAX_SALT_LENGTH} characters"
        )
    hashed = hashlib.blake2b(value.encode(), digest_size=8, key=_SALT_KEY)
    return int.from_bytes(hashed.digest(), "big")


def _optional(merged: Mapping[str, Any], key: str, high: int) -> int | None:
    """From 0 to high, or None where it is not given."""
    return None if merged.get(key) is None else _whole(merged, key, 0, 0, high)


def _whole(
    merged: Mapping[str, Any], key: str, default: int, low: int, high: int = 2**31 - 1
) -> int:
    value = merged.get(key)
    if value is None:
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value != int(value) or not low <= value <= high:
        raise errors.InvalidArgumentError(
            f"extra input {key} is {value!r}; must be a whole number from {low} to {high}"
        )
    return int(value)
