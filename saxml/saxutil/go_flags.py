"""Flags and literals as Go programs take them.

-flag and --flag are the same; -flag=value or -flag value; -flag alone is true. The first
argument that is no flag, or "--", ends the flags.
"""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False"])
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_DECIMAL = re.compile(r"[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+(_\d+)*)([eE][+-]?\d+)?")
_HEX = re.compile(r"[+-]?0[xX][0-9a-fA-F_]*\.?[0-9a-fA-F_]*[pP][+-]?\d+")


class UsageError(Exception):
    """The command line is not as it should be."""


class HelpRequested(Exception):  # noqa: N818 (no error)
    """-h or -help was given."""


def parse_duration(text: str) -> float:
    """Seconds of a Go duration: 60s, 1m30s, 1.5h, 500ms; raises ValueError."""
    sign, rest = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(rest):
        match = _DURATION_PART.match(rest, position)
        if not match:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if position == 0 or position < len(rest):
        raise ValueError(f'invalid duration "{text}"; write for example 60s, 1m30s or 500ms')
    return -total if sign == "-" else total


def parse_float32(text: str) -> float | None:
    """The number in `text` if it fits a 32-bit float, such as 0.5, 1e3, inf or nan; else None."""
    lower = text.lower()
    if lower == "nan":
        return float("nan")
    if lower.lstrip("+-") in ("inf", "infinity") and len(lower) - len(lower.lstrip("+-")) < 2:
        return float(lower)
    if _DECIMAL.fullmatch(text):
        value = float(text.replace("_", ""))
    elif _HEX.fullmatch(text):
        try:
            value = float.fromhex(text.replace("_", ""))
        except (ValueError, OverflowError):
            return None
    else:
        return None
    try:
        struct.pack("<f", value)
    except OverflowError:
        return None
    return None if value in (float("inf"), float("-inf")) else value


def _parse_bool(text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("parse error")


def _parse_int(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError("parse error")
    return int(text)


@dataclass(slots=True)
class Flag:
    """One flag: how its text is read, its value by now."""

    name: str
    value: Any
    help: str
    parse: Callable[[str], Any]
    default_text: str
    given: bool = False

    @property
    def is_bool(self) -> bool:
        """Whether it may stand without a value."""
        return self.parse is _parse_bool

    def usage(self) -> str:
        """The lines that describe it."""
        kind = {bool: "", int: " int", str: " string", float: " duration"}[type(self.value)]
        default = f" (default {self.default_text})" if self.default_text else ""
        return f"  -{self.name}{kind}\n    \t{self.help}{default}\n"


@dataclass(slots=True)
class FlagSet:
    """The flags of a program or of one command."""

    flags: dict[str, Flag] = field(default_factory=dict)

    def string(self, name: str, default: str, help: str) -> None:
        """Declares a text."""
        self.flags[name] = Flag(name, default, help, str, f'"{default}"' if default else "")

    def boolean(self, name: str, default: bool, help: str) -> None:
        """Declares a switch."""
        self.flags[name] = Flag(name, default, help, _parse_bool, "true" if default else "")

    def integer(self, name: str, default: int, help: str) -> None:
        """Declares a whole number."""
        self.flags[name] = Flag(name, default, help, _parse_int, str(default) if default else "")

    def duration(self, name: str, default: str, help: str) -> None:
        """Declares a time, kept in seconds."""
        self.flags[name] = Flag(name, parse_duration(default), help, parse_duration, default)

    def __getitem__(self, name: str) -> Any:
        return self.flags[name].value

    def given(self, name: str) -> bool:
        """Whether the command line has this flag."""
        return self.flags[name].given

    def usage(self) -> str:
        """What each flag means."""
        return "".join(self.flags[name].usage() for name in sorted(self.flags))

    def parse(self, args: Sequence[str]) -> list[str]:
        """Reads the flags at the start of `args`; gives what follows them."""
        rest = list(args)
        while rest and len(rest[0]) > 1 and rest[0].startswith("-"):
            word = rest.pop(0)
            if word == "--":
                break
            self._take(word, rest)
        return rest

    def _take(self, word: str, rest: list[str]) -> None:
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        flag = self.flags.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpRequested
            raise UsageError(f"flag provided but not defined: -{name}")
        if not equals:
            if flag.is_bool:
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise UsageError(f"flag needs an argument: -{name}")
        try:
            flag.value = flag.parse(text)
        except ValueError as error:
            kind = "boolean value" if flag.is_bool else "value"
            raise UsageError(f'invalid {kind} "{text}" for flag -{name}: {error}') from error
        flag.given = True
