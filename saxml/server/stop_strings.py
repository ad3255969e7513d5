"""Stop strings as a configuration and a request spell them."""

import json
from typing import Any

from saxml.common import errors

MAX_LENGTH = 256


def problem(stops: Any, most: int) -> str | None:
    """What keeps a value from being at most so many stop strings; None if nothing does."""
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        return "is not a list of strings"
    if len(stops) > most:
        return f"has {len(stops)} strings; at most {most}"
    for number, stop in enumerate(stops, 1):
        which = f"string {number} of {len(stops)}"
        if not stop:
            return f"is empty in {which}"
        if len(stop) > MAX_LENGTH:
            return f"has {len(stop)} characters in {which}; at most {MAX_LENGTH}"
        if any("\ud800" <= c <= "\udfff" for c in stop):
            return f"has half of a surrogate pair in {which}"
    return None


def parse(value: Any, most: int) -> tuple[str, ...]:
    """The extra input `stop`: one string a line; or, for those with a line feed in them, a JSON
    list of strings.

    Raises InvalidArgumentError that says how to write them.
    """
    if value is None or value == "":
        return ()
    stops = value
    if isinstance(value, str):
        stops = _json_strings(value) or value.split("\n")
    wrong = problem(stops, most)
    if wrong is not None:
        raise errors.InvalidArgumentError(
            f"extra input stop {wrong}; send one string a line, or a JSON list of strings where"
            ' one has a line feed in it: ["\\n\\n"]'
        )
    return tuple(stops)


def _json_strings(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(s, str) for s in found) else None
