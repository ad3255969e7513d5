"""Discrete-event simulation of a server around the real scheduler: what runs when is planned by
saxml.native.Scheduler, as in the engine; only the time that a step takes comes from a table."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from saxml import native
from saxml.engine import pace
from tools.bench.workload import Batches, Job

_NO_TARGETS = np.empty(0, np.int32)
_ROW_PARAMS = np.zeros(1, np.int32)
_VOCABULARY = 50_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Milliseconds of a step: weights are read once, each token of the bucket is computed, each row
    that decodes reads its keys and values, pages are copied."""

    base_ms: float
    token_ms: float
    row_ms: float = 0.0
    copy_ms: float = 0.0

    def seconds(self, tokens: int, rows: int = 0, copies: int = 0) -> float:
        """Of one step."""
        total = self.base_ms + self.token_ms * tokens + self.row_ms * rows + self.copy_ms * copies
        return total / 1000

    def scaled(self, factor: float) -> "StepCost":
        """All of it so many times as long."""
        return StepCost(**{k: v * factor for k, v in dataclasses.asdict(self).items()})


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredCost:
    """Seconds of a step by its bucket, as measured."""

    table: Mapping[int, float]

    def seconds(self, tokens: int, rows: int = 0, copies: int = 0) -> float:
        """Of one step."""
        return self.table[tokens]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Sizes of the simulated engine; see saxml.engine.options. width: beams of a request."""

    num_pages: int
    page_size: int
    max_model_len: int
    max_rows: int
    buckets: tuple[int, ...]
    width: int = 1
    prefill_stretch: float = pace.STRETCH

    def scheduler(self, cost: StepCost | MeasuredCost) -> native.Scheduler:
        """An empty scheduler that knows what steps cost, as the engine tells it."""
        scheduler = native.Scheduler(
            num_pages=self.num_pages,
            page_size=self.page_size,
            max_rows=self.max_rows,
            buckets=list(self.buckets),
            max_model_len=self.max_model_len,
            queue_capacity=1 << 20,
            row_params=len(_ROW_PARAMS),
        )
        seconds = [cost.seconds(bucket) for bucket in self.buckets]
        scheduler.set_mix(pace.mix(self.buckets, seconds, self.prefill_stretch))
        return scheduler


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What the requests saw, in seconds, and the steps that were run."""

    latencies: list[float]  # of each request, from its arrival to its end
    first: list[float]  # to its first token
    gaps: list[float]  # between two tokens of a request, all requests together
    steps: int
    busy_s: float
    end_s: float  # when the last request ended


def replay(
    jobs: Sequence[Job],
    server: Server,
    cost: StepCost | MeasuredCost,
    batches: Batches | None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Serves jobs, which are in the order of their arrival: continuously, or in static batches.

    A request with beams takes part with `width` rows from its second step on; which beam goes on
    from which is drawn. Prompts are random: nothing is shared between requests.
    """
    return _Replay(jobs, server, cost, batches, seed, progress).run()


class _Replay:
    def __init__(
        self,
        jobs: Sequence[Job],
        server: Server,
        cost: StepCost | MeasuredCost,
        batches: Batches | None,
        seed: int,
        progress: Callable[[int], None],
    ) -> None:
        self._jobs = jobs
        self._server = server
        self._cost = cost
        self._batches = batches
        self._progress = progress
        self._random = np.random.default_rng(seed)
        self._scheduler = server.scheduler(cost)
        self._next = 0  # the first job that has not come
        self._waiting: list[int] = []  # those that a batch is made of
        self._done = [0] * len(jobs)  # steps
        self._last = [0.0] * len(jobs)  # when each had its last token
        self._latencies = [0.0] * len(jobs)
        self._first = [0.0] * len(jobs)
        self._gaps: list[float] = []
        self._left = len(jobs)
        self._in_batch = 0

    def run(self) -> Outcome:
        now, steps, busy = 0.0, 0, 0.0
        while self._left:
            self._admit(now)
            plan = self._scheduler.plan(now)
            if plan is None:
                now = self._next_event(now)
                continue
            took = self._cost.seconds(plan.bucket, plan.num_decode_rows, plan.num_copies)
            now, steps, busy = now + took, steps + 1, busy + took
            self._take(plan, now)
        return Outcome(self._latencies, self._first, self._gaps, steps, busy, now)

    def _admit(self, now: float) -> None:
        while self._next < len(self._jobs) and self._jobs[self._next].arrival_s <= now:
            self._waiting.append(self._next)
            self._next += 1
        started = self._waiting
        if self._batches:
            oldest = now - self._jobs[self._waiting[0]].arrival_s if self._waiting else 0.0
            # Rounding must not let the clock stand just before the moment.
            if self._in_batch or not self._batches.ready(len(self._waiting), oldest + 1e-9):
                return
            started = self._waiting[: self._batches.size]
            self._in_batch = len(started)
        self._waiting = self._waiting[len(started) :]
        for number in started:
            self._scheduler.submit(
                number + 1,
                self._random.integers(0, _VOCABULARY, self._jobs[number].prompt, np.int32),
                width=self._server.width,
                fork_at_start=False,
                max_new_tokens=self._jobs[number].steps,
                targets=_NO_TARGETS,
                row_params=_ROW_PARAMS,
                deadline=math.inf,
            )

    def _next_event(self, now: float) -> float:
        """Nothing runs: the time goes on to when somebody comes, or a batch has waited enough."""
        times = []
        if self._next < len(self._jobs):
            times.append(self._jobs[self._next].arrival_s)
        if self._batches and self._waiting:
            times.append(self._jobs[self._waiting[0]].arrival_s + self._batches.wait_s)
        return max(now, min(times))

    def _take(self, plan: native.StepPlan, now: float) -> None:
        owners = plan.entry_request
        first = 0
        for last in [*(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]:
            if first < last:
                self._step(int(owners[first]) - 1, last - first, now)
            first = last

    def _step(self, number: int, rows: int, now: float) -> None:
        job, width = self._jobs[number], self._server.width
        if self._done[number]:
            self._gaps.append(now - self._last[number])
        else:
            self._first[number] = now - job.arrival_s
        self._last[number] = now
        self._done[number] += 1
        if self._done[number] < job.steps:
            parents = self._random.integers(0, rows, width, np.int32)
            self._scheduler.advance(number + 1, parents, np.zeros(width, np.int32))
            return
        self._scheduler.finish(number + 1)
        self._latencies[number] = now - job.arrival_s
        self._left -= 1
        self._in_batch = max(0, self._in_batch - 1)
        self._progress(1)
