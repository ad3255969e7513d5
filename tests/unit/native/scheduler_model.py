"""The rules of saxml.native.Scheduler once more, as plainly as Python allows.

Pages are objects here, a cached sequence is the list of its tokens, and prompts grow token by
token: nothing is shared with the C++ but the rules.
"""

import dataclasses
import enum
import math


class Page:
    """A page; its users are counted by looking at all tables."""


class Phase(enum.Enum):
    PREFILL = 1
    DECODE = 2
    AWAITING = 3


@dataclasses.dataclass
class Request:
    id: int
    prompt: list[int]
    width: int = 1
    fork_at_start: bool = False
    max_new_tokens: int = 0
    targets: list[int] = dataclasses.field(default_factory=list)
    row_params: list[int] = dataclasses.field(default_factory=list)
    deadline: float = math.inf
    cancelled: bool = False


@dataclasses.dataclass
class Beam:
    cached: list[int]
    pages: list[Page]
    pending: int = 0


@dataclasses.dataclass
class Run:
    request: Request
    beams: list[Beam]
    phase: Phase = Phase.PREFILL
    advances: int = 0


@dataclasses.dataclass
class Entry:
    request: int
    seq: int
    token: int  # index among the tokens of the step
    target: int
    sample: int
    position: int
    params: list[int]


@dataclasses.dataclass
class Step:
    """What a plan must say; `histories` are the cached tokens of each row after the step."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    starts: list[int] = dataclasses.field(default_factory=list)
    histories: list[list[int]] = dataclasses.field(default_factory=list)
    entries: list[Entry] = dataclasses.field(default_factory=list)
    decode_rows: int = 0
    copies: int = 0
    bucket: int = 0


@dataclasses.dataclass
class Model:
    num_pages: int
    page_size: int
    max_rows: int
    buckets: list[int]
    max_model_len: int
    queue_capacity: int
    row_params: int
    waiting: list[Request] = dataclasses.field(default_factory=list)
    running: list[Run] = dataclasses.field(default_factory=list)

    def worst_case(self, request: Request) -> int:
        total = math.ceil((len(request.prompt) + request.max_new_tokens) / self.page_size)
        shared = len(request.prompt) // self.page_size
        return shared + request.width * (total - shared)

    def could_run(self, request: Request) -> bool:
        return (
            len(request.prompt) >= 1
            and len(request.prompt) + request.max_new_tokens <= self.max_model_len
            and 1 <= request.width <= self.max_rows
            and len(request.targets) <= len(request.prompt)
            and self.worst_case(request) <= self.num_pages
            and len(request.row_params) == self.row_params
        )

    def find(self, request_id: int) -> Run | None:
        return next((r for r in self.running if r.request.id == request_id), None)

    def known(self, request_id: int) -> Request | None:
        everything = [*self.waiting, *(r.request for r in self.running)]
        return next((r for r in everything if r.id == request_id), None)

    def release(self, request_id: int) -> None:
        self.waiting = [r for r in self.waiting if r.id != request_id]
        self.running = [r for r in self.running if r.request.id != request_id]

    def used_pages(self) -> int:
        return len({id(p) for r in self.running for b in r.beams for p in b.pages})

    def may_advance(self, request_id: int, parents: list[int]) -> bool:
        run = self.find(request_id)
        return (
            run is not None
            and run.phase is Phase.AWAITING
            and not run.request.targets
            and 1 <= len(parents) <= run.request.width
            and all(0 <= p < len(run.beams) for p in parents)
            and run.advances < run.request.max_new_tokens
        )

    def advance(self, request_id: int, parents: list[int], tokens: list[int]) -> None:
        run = self.find(request_id)
        assert run is not None
        run.beams = [
            Beam(list(run.beams[p].cached), list(run.beams[p].pages), token)
            for p, token in zip(parents, tokens, strict=True)
        ]
        run.phase = Phase.DECODE
        run.advances += 1

    def drop(self, now: float) -> dict[int, str]:
        dropped = {}
        for request in [*self.waiting, *(r.request for r in self.running)]:
            if request.cancelled:
                dropped[request.id] = "CANCELLED"
            elif request.deadline <= now:
                dropped[request.id] = "EXPIRED"
        for request_id in dropped:
            self.release(request_id)
        return dropped

    def plan(self) -> Step | None:
        """Give the step after drop(), and make it."""
        step = Step()
        for run in [r for r in self.running if r.phase is Phase.DECODE]:
            for seq, beam in enumerate(run.beams):
                entry = self._entry(run, seq, len(step.tokens), len(beam.cached) + 1)
                self._add_row(step, beam, [beam.pending], [entry])
                step.decode_rows += 1
            run.phase = Phase.AWAITING
        for run in [r for r in self.running if r.phase is Phase.PREFILL]:
            self._prefill(step, run)
        while len(step.tokens) < self.buckets[-1] and self.waiting and self._fits(self.waiting[0]):
            run = Run(self.waiting.pop(0), [Beam([], [])])
            self.running.append(run)
            self._prefill(step, run)
        if not step.tokens:
            return None
        rows = max(len(step.starts), len(step.entries))
        step.bucket = min(
            t for t in self.buckets if t >= len(step.tokens) and min(t, self.max_rows) >= rows
        )
        return step

    def _fits(self, request: Request) -> bool:
        requests = [request, *(r.request for r in self.running)]
        return (
            sum(r.width for r in requests) <= self.max_rows
            and sum(self.worst_case(r) for r in requests) <= self.num_pages
        )

    def _prefill(self, step: Step, run: Run) -> None:
        request, beam = run.request, run.beams[0]
        prompt, first_scored = request.prompt, len(request.prompt) - len(request.targets)
        taken: list[int] = []
        entries: list[Entry] = []
        for i in range(len(beam.cached), len(prompt)):
            if len(step.tokens) + len(taken) == self.buckets[-1]:
                break
            new = []
            if request.targets:
                if i >= first_scored:
                    new = [self._entry(run, 0, 0, i + 1, target=request.targets[i - first_scored])]
            elif i == len(prompt) - 1:
                samples = range(request.width if request.fork_at_start else 1)
                new = [self._entry(run, 0, 0, i + 1, sample=s) for s in samples]
            if len(step.entries) + len(entries) + len(new) > self.max_rows:
                if request.targets:
                    break
                return
            for entry in new:
                entry.token = len(step.tokens) + len(taken)
            taken.append(prompt[i])
            entries += new
        if taken:
            self._add_row(step, beam, taken, entries)
        if len(beam.cached) == len(prompt):
            run.phase = Phase.AWAITING

    def _entry(
        self, run: Run, seq: int, token: int, position: int, *, target: int = -1, sample: int = -1
    ) -> Entry:
        request = run.request
        sample = seq if sample < 0 else sample
        return Entry(request.id, seq, token, target, sample, position, request.row_params)

    def _add_row(self, step: Step, beam: Beam, tokens: list[int], entries: list[Entry]) -> None:
        begin = len(beam.cached)
        if begin % self.page_size:
            last = beam.pages[-1]
            users = sum(p is last for r in self.running for b in r.beams for p in b.pages)
            if users > 1:
                beam.pages[-1] = Page()
                step.copies += 1
        while len(beam.pages) * self.page_size < begin + len(tokens):
            beam.pages.append(Page())
        beam.cached += tokens
        step.starts.append(len(step.tokens))
        step.tokens += tokens
        step.positions += range(begin, begin + len(tokens))
        step.histories.append(list(beam.cached))
        step.entries += entries
