"""How the benchmark talks to an engine in a process of its own: a JSON object a line.

The child gets its Setup as its argument, says {"ready": {...}} once the model is there, and answers
each task of its standard input. Whatever libraries print goes to stderr. Only the standard library
is used: this file runs in the peers' environments, too.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TextIO


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Of a task that will come."""

    rows: int
    prompt: int
    new: int
    beams: int

    @property
    def cache_tokens(self) -> int:
        """Keys and values at its end, with some room to spare in each row."""
        rows = self.beams or self.rows
        return rows * (self.new + 64) + (self.prompt if self.beams else rows * self.prompt)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a child is to load. model: folder or file; shape: fields of cases.Shape; sizes: of all
    tasks."""

    model: str
    weights: str
    threads: int
    shape: dict[str, Any]
    sizes: list[Size]

    def to_json(self) -> str:
        """As an argument."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What to_json gave."""
        fields = json.loads(text)
        return cls(**fields | {"sizes": [Size(**size) for size in fields["sizes"]]})


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One run: prompts i32[rows][prompt], `new` tokens more each; beams: 0 for greedy."""

    prompts: list[list[int]]
    new: int
    beams: int


class Recorder:
    """Times of the tokens of a run, in seconds since it was made."""

    def __init__(self, rows: int) -> None:
        self.times: list[list[float]] = [[] for _ in range(rows)]
        self._start = time.perf_counter()

    def note(self, row: int) -> None:
        """A token of this row is there."""
        self.times[row].append(time.perf_counter() - self._start)

    def note_all(self) -> None:
        """One of every row is."""
        now = time.perf_counter() - self._start
        for row in self.times:
            row.append(now)

    def answer(self, tokens: list[list[int]]) -> dict[str, Any]:
        """All is done."""
        seconds = time.perf_counter() - self._start
        return {"times": self.times, "seconds": seconds, "tokens": tokens}


Run = Callable[[Task], dict[str, Any]]


def serve(load: Callable[[Setup], tuple[Run, dict[str, str]]]) -> None:
    """Runs a child. load gives what answers a task, and what is to be said of the engine, such as
    its version; errors end the child with a traceback on stderr."""
    # What runs at exit, such as ending processes of its own, runs then, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    out = _take_stdout()
    run, about = load(Setup.from_json(sys.argv[1]))
    _say(out, {"ready": about})
    for line in _lines():
        _say(out, run(Task(**json.loads(line))))


def _take_stdout() -> TextIO:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _say(out: TextIO, what: dict[str, Any]) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()


def _lines() -> Iterator[str]:
    while line := sys.stdin.readline():
        yield line
