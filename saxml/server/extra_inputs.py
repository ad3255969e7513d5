"""Per-request parameters: what a client may send beside the text, checked against what the method
declares."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from saxml.common import errors
from saxml.proto import common_pb2

Value = float | str | list[float]

MAX_STOPS = 16
MAX_STOP_LENGTH = 256


def merge(sent: common_pb2.ExtraInputs, declared: Mapping[str, Any]) -> dict[str, Any]:
    """The declared defaults, replaced by what was sent.

    Raises InvalidArgumentError for a key that is not declared or stands in two maps, and for a
    tensor whose default is not a list of the same length.
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
        if key not in declared:
            known = ", ".join(sorted(declared)) or "none"
            raise errors.InvalidArgumentError(
                f"extra input {key!r} is not declared by this method; it takes: {known}"
            )
        default = declared[key]
        if isinstance(value, list) and not (
            isinstance(default, list) and len(default) == len(value)
        ):
            raise errors.InvalidArgumentError(
                f"extra input {key!r} has {len(value)} values; its default is {default!r}"
            )
        seen.add(key)
        merged[key] = value
    return merged


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplingInputs:
    """What one request asks of the choice of tokens. top_k 0 and top_p 1 keep everything; the text
    ends before the first of `stops`."""

    temperature: float
    top_k: int
    top_p: float
    max_steps: int
    seed: int | None
    stops: tuple[str, ...]

    @classmethod
    def parse(
        cls, merged: Mapping[str, Any], *, temperature: float, max_steps: int
    ) -> "SamplingInputs":
        """From merged extra inputs; `temperature` and `max_steps` are the configuration's.

        Raises InvalidArgumentError that names the value out of range.
        """
        seed = merged.get("seed")
        return cls(
            temperature=_number(merged, ("temperature",), temperature, low=0.0),
            top_k=int(_number(merged, ("per_example_top_k", "top_k"), 0, low=0, whole=True)),
            top_p=_number(merged, ("per_example_top_p", "top_p"), 1.0, low=0.0, high=1.0),
            max_steps=int(
                min(
                    max_steps,
                    _number(
                        merged, ("per_example_max_decode_steps",), max_steps, low=1, whole=True
                    ),
                )
            ),
            seed=None if seed is None else int(_number(merged, ("seed",), 0, low=0, whole=True)),
            stops=_stops(merged.get("stop")),
        )


def _number(
    merged: Mapping[str, Any],
    keys: tuple[str, ...],
    default: float,
    *,
    low: float,
    high: float = 2.0**31 - 1,
    whole: bool = False,
) -> float:
    for key in keys:
        value = merged.get(key)
        if value is None:
            continue
        good = isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
        if not good or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise errors.InvalidArgumentError(
                f"extra input {key} is {value!r}; must be {kind} from {low:g} to {high:g}"
            )
        return float(value)
    return default


def problem_of_stops(stops: Any) -> str | None:
    """What keeps a value from being stop strings; None if nothing does."""
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        return "is not a list of strings"
    if len(stops) > MAX_STOPS:
        return f"has {len(stops)} strings; at most {MAX_STOPS}"
    for number, stop in enumerate(stops, 1):
        which = f"string {number} of {len(stops)}"
        if not stop:
            return f"is empty in {which}"
        if len(stop) > MAX_STOP_LENGTH:
            return f"has {len(stop)} characters in {which}; at most {MAX_STOP_LENGTH}"
        if any("\ud800" <= c <= "\udfff" for c in stop):
            return f"has half of a surrogate pair in {which}"
    return None


def _stops(value: Any) -> tuple[str, ...]:
    """One stop string a line; or, for those with a line feed in them, a JSON list of strings."""
    if value is None or value == "":
        return ()
    stops = value
    if isinstance(value, str):
        stops = _json_strings(value) or value.split("\n")
    problem = problem_of_stops(stops)
    if problem is not None:
        raise errors.InvalidArgumentError(
            f"extra input stop {problem}; send one string a line, or a JSON list of strings where"
            ' one has a line feed in it: ["\\n\\n"]'
        )
    return tuple(stops)


def _json_strings(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(s, str) for s in found) else None
