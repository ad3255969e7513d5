"""Per-request parameters, sent beside the text: which keys a method takes.

SAX's own keys are taken where the configuration declares them (EXTRA_INPUTS, with their defaults).
Ours are always taken; a configuration may declare them too, to give them another default.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from saxml.common import errors
from saxml.proto import common_pb2

Value = float | str | list[float]

# What concerns the choice of tokens by sampling.
SAMPLING_KEYS = frozenset(
    {
        "min_p",
        "seed",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "num_samples",
        "stop",
        "logprobs",
    }
)
# What concerns a request of any method.
REQUEST_KEYS = frozenset({"priority", "cache_salt"})
GENERATE_KEYS = SAMPLING_KEYS | REQUEST_KEYS | {"min_decode_steps", "prompt_logprobs"}
BEAM_KEYS = GENERATE_KEYS - SAMPLING_KEYS

# May be a tensor although the declared default is a number.
_NUMBER_OR_TENSOR = frozenset({"temperature"})
# What EXTRA_INPUTS_DTYPES may say.
DTYPES = ("float32", "int32")


def merge(
    sent: common_pb2.ExtraInputs,
    declared: Mapping[str, Any],
    *,
    always: Collection[str] = (),
    dtypes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The declared defaults, replaced by what was sent.

    always: keys that are taken without being declared. dtypes: "int32" for keys that take whole
    numbers only.

    Raises InvalidArgumentError for a key that is neither, or stands in two maps; for a tensor whose
    default is not a list of the same length; for a number that its dtype cannot hold.
    """
    merged = dict(declared)
    seen: set[str] = set()
    values: list[tuple[str, Value]] = [
        *sent.items.items(),
        *((k, list(t.values)) for k, t in sent.tensors.items()),
        *sent.strings.items(),
    ]
    for key, value in values:
        if key in seen:
            raise errors.InvalidArgumentError(f"extra input {key!r} is given twice")
        if key not in declared and key not in always:
            raise errors.InvalidArgumentError(_unknown(key, declared, always))
        if isinstance(value, list):
            _check_tensor(key, value, declared.get(key))
        seen.add(key)
        merged[key] = value
    for key, dtype in (dtypes or {}).items():
        if dtype == "int32" and key in seen:
            merged[key] = _whole(key, merged[key])
    return merged


def _unknown(key: str, declared: Mapping[str, Any], always: Collection[str]) -> str:
    why = "is not declared by this method"
    if key in SAMPLING_KEYS:
        why = "is for sampling, which this method does not do"
    known = ", ".join(sorted({*declared, *always})) or "none"
    return f"extra input {key!r} {why}; it takes: {known}"


def _check_tensor(key: str, values: list[float], default: object) -> None:
    if key in _NUMBER_OR_TENSOR and not isinstance(default, list):
        return
    if not isinstance(default, list) or len(default) != len(values):
        raise errors.InvalidArgumentError(
            f"extra input {key!r} has {len(values)} values; its default is {default!r}"
        )


def _whole(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(key, item) for item in value]
    number = isinstance(value, int | float) and math.isfinite(value)
    if not number or value != int(value) or not -(2**31) <= value < 2**31:
        raise errors.InvalidArgumentError(
            f"extra input {key} is {value!r}; must be a whole number (EXTRA_INPUTS_DTYPES)"
        )
    return int(value)
