"""Where the time of a compiled step goes: a JAX profile, by kind of operation.

with jax.profiler.trace(folder):
    run the step a few times
kinds = by_kind(folder, instructions(compiled.as_text()), steps)
"""

import collections
import dataclasses
import pathlib
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping

import jax

# Custom calls by their target, and what else there is.
KERNELS = {"sax_linear": "products", "sax_attention": "attention", "sax_choice": "choice"}
OTHER = "other XLA"
KINDS = (*KERNELS.values(), OTHER)

# Their bodies' instructions have events of their own.
_NESTING = {"while", "conditional", "call"}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (?:\([^=]*\)|\S+) ([\w-]+)\(", re.MULTILINE)
_TARGET = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*custom_call_target="(\w+)"', re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """An instruction that ran."""

    name: str
    seconds: float


def instructions(text: str) -> dict[str, str]:
    """Kind of each instruction of a compiled program, by its name; those that only hold others are
    left out."""
    kinds = {name: OTHER for name, code in _INSTRUCTION.findall(text) if code not in _NESTING}
    for name, target in _TARGET.findall(text):
        kinds[name] = KERNELS.get(target, OTHER)
    return kinds


def read(folder: str) -> Iterator[Event]:
    """Events of the one profile in a folder. Raises FileNotFoundError if there is none."""
    files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no profile")
    for plane in jax.profiler.ProfileData.from_file(str(files[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                yield Event(event.name, event.duration_ns / 1e9)


def by_kind(events: Iterable[Event], kinds: Mapping[str, str], steps: int) -> dict[str, float]:
    """Seconds that a step spends in each of KINDS, from a profile of so many. An instruction counts
    with its median: other programs make single events long."""
    seen: dict[str, list[float]] = collections.defaultdict(list)
    for event in events:
        if event.name in kinds:
            seen[event.name].append(event.seconds)
    found = dict.fromkeys(KINDS, 0.0)
    for name, seconds in seen.items():
        found[kinds[name]] += statistics.median(seconds) * len(seconds) / steps
    return found
