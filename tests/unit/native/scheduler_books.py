"""What the plain model of the scheduler keeps: requests, beams, pages and the prefix cache."""

import dataclasses
import enum
import math


class Page:
    """A page; its users are counted by looking at all tables."""


class Phase(enum.Enum):
    PREFILL = 1
    RESTORE = 2
    DECODE = 3
    AWAITING = 4


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
    priority: int = 0
    cache_salt: int = 0
    cache_read: bool = True
    arrival: int = 0

    def place(self) -> tuple[int, int]:
        """Where it stands in the order of service."""
        return -self.priority, self.arrival


@dataclasses.dataclass
class Beam:
    cached: list[int]
    pages: list[Page]
    pending: int = 0
    entered: int = 0
    sample: int = 0
    lost: list[int] = dataclasses.field(default_factory=list)  # to compute again before `pending`


@dataclasses.dataclass
class Run:
    request: Request
    beams: list[Beam]
    held: list[Page]  # from the prefix cache at the start; counted once however many hold them
    phase: Phase = Phase.PREFILL
    advances: int = 0
    suspensions: int = 0
    fresh: bool = False  # whether the last plan emitted its entries
    unknown: bool = False  # whether the scheduler was not told its last tokens
    scored: int = 0  # tokens of the prompt whose entries are out


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
class Row:
    """What a beam will do in a step; entries count `token` from the row's first."""

    run: Run
    seq: int
    tokens: list[int]
    entries: list[Entry]


@dataclasses.dataclass
class Step:
    """What a plan must say; `histories` are the cached tokens of each row after the step, `salts`
    the salts of their requests."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    starts: list[int] = dataclasses.field(default_factory=list)
    histories: list[list[int]] = dataclasses.field(default_factory=list)
    salts: list[int] = dataclasses.field(default_factory=list)
    # token -> (request, sample) whose entry in the step before says what it is
    sources: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    entries: list[Entry] = dataclasses.field(default_factory=list)
    beams: list[Beam] = dataclasses.field(default_factory=list)
    decode_rows: int = 0
    copies: int = 0
    bucket: int = 0


@dataclasses.dataclass
class Books:
    """Requests that wait, run and were suspended, and whose pages hold what."""

    num_pages: int
    page_size: int
    max_rows: int
    buckets: list[int]
    max_model_len: int
    queue_capacity: int
    row_params: int
    prefix_cache: bool = True
    max_preemptions: int = 3
    max_queued_tokens: int | None = None
    waiting: list[Request] = dataclasses.field(default_factory=list)
    running: list[Run] = dataclasses.field(default_factory=list)
    suspended: list[Run] = dataclasses.field(default_factory=list)
    cancels: list[int] = dataclasses.field(default_factory=list)
    # (salt, all tokens up to the end of the page) -> page
    index: dict[tuple[int, tuple[int, ...]], Page] = dataclasses.field(default_factory=dict)
    idle: list[Page] = dataclasses.field(default_factory=list)  # of the index, unused; oldest first
    queried: int = 0
    hits: int = 0
    arrivals: int = 0
    preemptions: int = 0
    room_wanted: bool = False

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
        everything = [*self.waiting, *(r.request for r in self.running + self.suspended)]
        return next((r for r in everything if r.id == request_id), None)

    def queued_tokens(self) -> int:
        return sum(len(r.prompt) for r in self.waiting)

    def has_room(self, request: Request) -> bool:
        if len(self.waiting) == self.queue_capacity:
            return False
        if self.max_queued_tokens is None or not self.waiting:
            return True
        return self.queued_tokens() + len(request.prompt) <= self.max_queued_tokens

    def submit(self, request: Request) -> None:
        request.arrival = self.arrivals
        self.arrivals += 1
        self.waiting.append(request)
        self.waiting.sort(key=Request.place)

    def cancel(self, request_id: int) -> None:
        if self.known(request_id) and request_id not in self.cancels:
            self.cancels.append(request_id)

    def release(self, request_id: int) -> None:
        self.waiting = [r for r in self.waiting if r.id != request_id]
        self.suspended = [r for r in self.suspended if r.request.id != request_id]
        self.cancels = [i for i in self.cancels if i != request_id]
        if run := self.find(request_id):
            self._enter(run)
            self._let_go(run, [])

    def _let_go(self, run: Run, going_on: list[Beam]) -> None:
        """Ends a run's beams, all at first, then those that go on come back: what nobody else uses
        becomes idle, beam after beam and the last page first."""
        kept = {id(p) for beam in going_on for p in beam.pages}
        while run.beams:
            for page in reversed(run.beams.pop(0).pages):
                in_use = self._users(page) or id(page) in kept
                if not in_use and page in self.index.values() and page not in self.idle:
                    self.idle.append(page)
        run.beams = going_on
        if not going_on:
            self.running.remove(run)

    def _users(self, page: Page) -> int:
        return sum(p is page for r in self.running for b in r.beams for p in b.pages)

    def used_pages(self) -> int:
        return len({id(p) for r in self.running for b in r.beams for p in b.pages})

    def used_tokens(self) -> int:
        """Filled slots of used pages; all but the last page of a sequence are full."""
        filled: dict[int, int] = {}
        for beam in (b for r in self.running for b in r.beams):
            for i, page in enumerate(beam.pages):
                filled[id(page)] = min(self.page_size, len(beam.cached) - i * self.page_size)
        return sum(filled.values())

    def _new_page(self) -> Page:
        if self.used_pages() + len(self.idle) == self.num_pages:
            oldest = self.idle.pop(0)
            self.index = {key: page for key, page in self.index.items() if page is not oldest}
        return Page()

    def _key(self, request: Request, tokens: list[int], pages: int) -> tuple[int, tuple[int, ...]]:
        return request.cache_salt, tuple(tokens[: pages * self.page_size])

    def _enter(self, run: Run) -> None:
        for beam in run.beams if self.prefix_cache else []:
            ahead = run.unknown and run.phase is Phase.AWAITING
            while (beam.entered + 1) * self.page_size <= len(beam.cached) - ahead:
                beam.entered += 1
                key = self._key(run.request, beam.cached, beam.entered)
                page = self.index.setdefault(key, beam.pages[beam.entered - 1])
                beam.pages[beam.entered - 1] = page
                self.idle = [p for p in self.idle if p is not page]

    def _prefix(self, request: Request, suspended: Run | None) -> list[Page] | None:
        """The pages that a request begins with; None: it waits for those that a running one, not
        further yet, is going to enter."""
        if not self.prefix_cache or not request.cache_read:
            return []
        tokens, done = request.prompt, len(request.prompt) - (len(request.targets) or 1)
        if suspended and suspended.phase is Phase.RESTORE:
            tokens = suspended.beams[0].lost
            done = len(tokens) - 1
        elif suspended:
            done = max(done, suspended.scored)
        pages = self._find(request, tokens, done // self.page_size)
        if len(pages) < done // self.page_size:
            next_one = self._key(request, tokens, len(pages) + 1)
            for run in self.running:
                if next_one == self._key(run.request, run.request.prompt, len(pages) + 1):
                    return None
        return pages

    def _find(self, request: Request, tokens: list[int], most: int) -> list[Page]:
        pages: list[Page] = []
        for count in range(1, most + 1):
            page = self.index.get(self._key(request, tokens, count))
            if page is None:
                break
            pages.append(page)
        return pages
