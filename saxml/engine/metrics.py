"""What an engine has done, in plain numbers that cost next to nothing to keep.

The engine's thread writes, anybody reads: counts only grow, and once the engine is idle they agree
with one another. Each request passes through these events, in this order:

  submitted   it was queued                       -> started
  admitted    its prompt is in a step             -> queue time
  emitted     a step gave it something            -> first token, then between tokens
  finished    once, whatever the reason           -> end to end, decode time if it was answered
"""

import bisect
import dataclasses
import enum
import math
import threading
import time
from collections.abc import Sequence

# From a step of a small model to a request that waits for minutes.
_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0),
)
_COUNTS = tuple(float(2**power) for power in range(15))


class Reason(enum.StrEnum):
    """Why a request ended."""

    STOP = "stop"  # by a stop token or a stop string
    LENGTH = "length"  # at its most tokens; of several samples at least one
    DONE = "done"  # what does not generate, such as a score, has its answer
    CANCELLED = "cancelled"  # by its client
    DEADLINE = "deadline"
    FAILED = "failed"  # by an error of ours, or because the engine ended


ANSWERED = frozenset({Reason.STOP, Reason.LENGTH, Reason.DONE})


class Histogram:
    """Numbers counted by their size. One thread observes."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """bounds: ascending upper bounds, each belonging to what is below it."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)  # the last: above all bounds
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts a value, `times` times."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """Values so far."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[float, int]]:
        """(upper bound, values up to it), the last bound being infinite."""
        listed, up_to = [], 0
        for bound, count in zip((*self.bounds, math.inf), list(self.counts), strict=True):
            up_to += count
            listed.append((bound, up_to))
        return listed


class Timeline:
    """When things happened to one request, on the clock of the metrics; None: not yet."""

    __slots__ = ("admitted", "first", "generates", "last", "prompt_tokens", "submitted")

    def __init__(self, prompt_tokens: int, *, generates: bool, now: float | None = None) -> None:
        """generates: whether what it gets are tokens; scores and the like get numbers."""
        self.prompt_tokens = prompt_tokens
        self.generates = generates
        self.submitted = time.monotonic() if now is None else now
        self.admitted: float | None = None
        self.first: float | None = None
        self.last: float | None = None


class EngineMetrics:
    """Of one engine. submitted() may be called by any thread, the rest by the engine's."""

    def __init__(self) -> None:
        self.started = 0
        self.finished = dict.fromkeys(Reason, 0)
        # Of these, the ones that ended before anything came.
        self.without_token = dict.fromkeys(Reason, 0)
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.queue_seconds = Histogram(_SECONDS)
        self.prefill_seconds = Histogram(_SECONDS)
        self.first_token_seconds = Histogram(_SECONDS)
        self.between_tokens_seconds = Histogram(_SECONDS)
        self.decode_seconds = Histogram(_SECONDS)
        self.request_seconds = Histogram(_SECONDS)
        self.step_seconds = Histogram(_SECONDS)
        self.step_tokens = Histogram(_COUNTS)
        self.step_rows = Histogram(_COUNTS)
        self._lock = threading.Lock()
        # Most requests of a step had their last token at the same time: those are counted first
        # and observed together.
        self._since: float | None = None
        self._alike = 0

    def submitted(self) -> None:
        """A request was queued."""
        with self._lock:
            self.started += 1

    def admitted(self, line: Timeline, now: float) -> None:
        """It left the queue; only the first time counts."""
        if line.admitted is None:
            line.admitted = now
            self.queue_seconds.observe(now - line.submitted)

    def emitted(self, line: Timeline, tokens: int, now: float) -> None:
        """A step that ended at `now` gave a request `tokens` tokens, or numbers if it does not
        generate; stepped() follows."""
        last, line.last = line.last, now
        if last is None:
            line.first = now
            self.first_token_seconds.observe(now - line.submitted)
            if line.admitted is not None:
                self.prefill_seconds.observe(now - line.admitted)
            self.prompt_tokens += line.prompt_tokens
        elif line.generates:
            if last != self._since:
                self._observe_between(now)
                self._since = last
            self._alike += 1
        if line.generates:
            self.generation_tokens += tokens

    def stepped(self, tokens: int, rows: int, start: float, now: float) -> None:
        """A step of so many tokens and rows began at `start` and ended at `now`."""
        self._observe_between(now)
        self.step_seconds.observe(now - start)
        self.step_tokens.observe(tokens)
        self.step_rows.observe(rows)

    def finished_with(self, line: Timeline, reason: Reason, now: float) -> None:
        """A request ended. Called once for each that was submitted."""
        self.finished[reason] += 1
        if line.first is None or line.last is None:
            self.without_token[reason] += 1
        elif reason in ANSWERED:
            self.request_seconds.observe(now - line.submitted)
            if line.generates:
                self.decode_seconds.observe(line.last - line.first)

    def _observe_between(self, now: float) -> None:
        if self._alike and self._since is not None:
            self.between_tokens_seconds.observe(now - self._since, self._alike)
        self._since, self._alike = None, 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """How an engine is now, and what its scheduler has counted. Sizes are in pages and tokens."""

    running: int = 0
    waiting: int = 0
    queued_tokens: int = 0
    page_size: int = 1
    pages: int = 0
    used_pages: int = 0
    cached_pages: int = 0
    # In the used pages.
    used_tokens: int = 0
    preemptions: int = 0
    # Requests that were given up because nothing could be planned.
    stuck: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    # How long the loop's present turn has taken.
    turn_seconds: float = 0.0

    @property
    def waste(self) -> float:
        """Share of the used pages that holds no tokens; 0 when none is used."""
        room = self.used_pages * self.page_size
        # The numbers are not of quite the same moment.
        return max(0.0, 1.0 - self.used_tokens / room) if room else 0.0
