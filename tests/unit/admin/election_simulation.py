"""A cell of admin servers in virtual time, on a store that fails: schedules drawn from a seed.

The decisions are those of production: lease.plan(), execute() and note(), election.Tenure,
StateFile, CellStore.announce(). What production does around them with threads and an event loop is
done here by generators that yield the seconds they wait. While a call to the store takes time,
everybody else goes on: sleep() runs their events before it returns.

Broken promises are assertions that name the seed; simulate(seed) does the same again.
"""

import contextlib
import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saxml.admin.election import Tenure
from saxml.admin.lease import Lease, Wait, execute, plan
from saxml.admin.state import StateFile
from saxml.common.errors import SaxError
from saxml.common.names import CellId
from saxml.proto import admin_pb2, internal_pb2
from saxml.storage.base import ConflictError, Store
from saxml.storage.cell import CellStore
from saxml.storage.lease_record import Record
from saxml.storage.memory import Fault, FaultKind, MemoryStore

CELL = CellId("test")
TTL_S = 10.0
POLL_S = 2.5
FAULTS_S = 25.0
# Clocks run by so much too fast or too slow; the wild ones of some schedules by more than leases
# allow for. Then two may think that they lead, but what is in the store keeps its promises.
SKEW, WILD_SKEW = 0.1, 0.6
LEASE, STATE = "sax/test/lease.json", "sax/test/state.proto"
_ERROR = Fault(FaultKind.ERROR)
_LOST = Fault(FaultKind.LOST_REPLY)
_LATE = Fault(FaultKind.LATE)
_STALE = Fault(FaultKind.STALE)


@dataclass(slots=True)
class Variant:
    """What is made worse than it is, to see that it is noticed."""

    # The store through which leases, and states, are written.
    lease_store: Callable[[Store], Store] = lambda store: store
    state_store: Callable[[Store], Store] = lambda store: store
    # Whether a state file that was written for a later term is refused.
    state_fence: bool = True
    # By how many seconds a holder believes in its lease longer than it may.
    overstay: float = 0.0


class BrokenPromiseError(AssertionError):
    """What must never be has been."""


class _KilledError(Exception):
    """The process has ended in the middle of a call."""


class UnconditionalStore:
    """Writes without regard to generations."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.root, self.poll_s = store.root, store.poll_s
        self.read, self.watch, self.list = store.read, store.watch, store.list
        self.exists_dir, self.make_dir = store.exists_dir, store.make_dir
        self.remove_dir = store.remove_dir

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> int:
        """See Store.write; the condition is dropped."""
        return self._store.write(name, data)


class _Store(MemoryStore):
    """Checks every write that is accepted."""

    def __init__(self, world: "World") -> None:
        super().__init__("mem://simulated", injector=world.fault, sleep=world.sleep)
        self._world = world
        self.lease: Record | None = None
        self.state_mark = (0, "")
        self.published: set[str] = set()

    def _commit(self, name: str, data: bytes, if_generation: int | None) -> int:
        generation = super()._commit(name, data, if_generation)
        check = self._world.check
        if name == LEASE:
            new, old = Record.from_bytes(data), self.lease
            self.lease = new
            if old is not None:
                moved = new.term > old.term or new.server_id == old.server_id
                check(new.term >= old.term and moved, "the lease", new, "follows", old)
        elif name == STATE:
            found = internal_pb2.StateTerm.FromString(data)
            mark, last = (found.term, found.server_id), self.state_mark
            check(mark[0] > last[0] or mark == last, mark, "writes the state after", last)
            self.state_mark = mark
            self.published = {m.model_id for m in admin_pb2.State.FromString(data).models}
            acknowledged = self._world.acknowledged
            check(acknowledged <= self.published, mark, "undoes", acknowledged - self.published)
        return generation


class _UnfencedStateFile(StateFile):
    """Takes over what a later term has written."""

    def _check_term(self, tenure: object, found: object) -> None:
        pass


class _Process:
    """One admin server, which restarts: what a former life left in the heap is skipped."""

    def __init__(self, address: str, rate: float, offset: float) -> None:
        self.address, self.rate, self.offset = address, rate, offset
        self.life = 0
        self.is_up = False
        self.paused_until = 0.0
        self.cut_off_until = 0.0
        self.tenure: Tenure | None = None


class _Tenure(Tenure):
    """Acting although somebody else has the lease already is a broken promise."""

    def __init__(self, world: "World", lease: Lease, clock: Callable[[], float]) -> None:
        super().__init__(CELL, lease, clock)
        self._world = world

    def check(self) -> None:
        """See Tenure."""
        super().check()
        record = self._world.store.lease
        self._world.check(
            self._world.is_wild or (record is not None and record.server_id == self.server_id),
            "acts for term",
            self.term,
            "although in force is",
            record,
        )


class World:
    """One schedule."""

    def __init__(self, seed: int, variant: Variant) -> None:
        self.seed, self.variant = seed, variant
        self.random = random.Random(seed)
        self.now = 0.0
        self.acknowledged: set[str] = set()
        self.takeovers = 0
        self.store = _Store(self)
        self.is_wild = self.random.random() < 0.25
        skew = WILD_SKEW if self.is_wild else SKEW
        self._patience_s = 2 * TTL_S / (1 - skew if self.is_wild else 1)
        self._fault_rate = self.random.choice((0.0, 0.1, 0.3))
        self._is_quiet = False
        self._current: _Process | None = None
        self._events: list[tuple[float, int, Iterator[float], _Process | None, int]] = []
        self._count = 0
        # What production opens once, it opens once here.
        self._lease_store = variant.lease_store(self.store)
        self._state_store = variant.state_store(self.store)
        self._files = CellStore("mem://unused", CELL)
        self._files.store = self.store
        self.processes = [
            _Process(
                f"10.0.0.{i}:10000",
                1 + skew * self.random.uniform(-1, 1),
                self.random.random() * 1000,
            )
            for i in range(self.random.choice((2, 2, 3)))
        ]

    def check(self, holds: bool, *words: object) -> None:
        """Ends the schedule with a BrokenPromiseError unless `holds`."""
        if not holds:
            text = " ".join(map(str, words))
            raise BrokenPromiseError(f"seed {self.seed}, at {self.now:.3f} s: {text}")

    def run(self) -> None:
        """Faults for a while; then somebody must lead in time, and know everything."""
        for process in self.processes:
            self._spawn(None, self._boot(process), self.random.random() * 3)
        self._spawn(None, self._mischief(), self.random.random() * 10)
        self._run_until(FAULTS_S)
        self._is_quiet = True
        self.store.deliver()
        for process in self.processes:
            process.paused_until = process.cut_off_until = 0.0
            if not process.is_up:
                self._spawn(None, self._boot(process), 0.0)
        deadline = self.now + self._patience_s
        while not self._is_led() and self._events and self._events[0][0] <= deadline:
            self._step()
        self.check(self._is_led(), "nobody leads", self._patience_s, "s after the last fault")
        self.check(self.acknowledged <= self.store.published, "the last state lacks a model")
        self.check(self.takeovers > 0, "nobody ever took over")

    def fault(self, call: str, name: str) -> Fault | None:
        """What happens to a call of the process that runs; see MemoryStore."""
        process = self._current
        if self._is_quiet or process is None:
            return None
        if process.cut_off_until > self.now:
            return _ERROR
        draw = self.random.random()
        if draw >= self._fault_rate:
            return None
        if draw < 0.5 * self._fault_rate:
            # Time passes between a decision and its effect, for the whole process or the call.
            delay = self.random.random() * self.random.choice((0.5, 3.0, 15.0))
            if self.random.random() < 0.5:
                process.paused_until = self.now + delay
            return Fault(FaultKind.DELAY, delay)
        return self.random.choice((_ERROR, _LOST, _LATE, _STALE))

    def sleep(self, seconds: float) -> None:
        """Time passes for one call while everybody else goes on."""
        current = self._current
        assert current is not None
        life = current.life
        self._run_until(self.now + seconds)
        # A pause that began meanwhile ends first.
        while current.paused_until > self.now:
            self._run_until(current.paused_until)
        if current.life != life or not current.is_up:
            raise _KilledError
        self._current = current

    def _is_led(self) -> bool:
        tenures = [p.tenure for p in self.processes if p.is_up]
        if not any(t is not None and t.is_valid() for t in tenures):
            return False
        # Its call to the store may be older than the end of the faults.
        return self.store.lease is not None and self.store.state_mark[0] == self.store.lease.term

    def _spawn(self, process: _Process | None, work: Iterator[float], delay: float) -> None:
        self._count += 1
        life = process.life if process is not None else 0
        heapq.heappush(self._events, (self.now + delay, self._count, work, process, life))

    def _run_until(self, time: float) -> None:
        while self._events and self._events[0][0] <= time:
            self._step()
        self.now = max(self.now, time)

    def _step(self) -> None:
        time, _, work, process, life = heapq.heappop(self._events)
        self.now = max(self.now, time)
        if process is not None:
            if process.life != life or not process.is_up:
                return
            if process.paused_until > self.now:
                self._count += 1
                heapq.heappush(
                    self._events, (process.paused_until, self._count, work, process, life)
                )
                return
        self._current = process
        try:
            wait = next(work, None)
        except _KilledError:
            return
        if wait is not None:
            self._count += 1
            heapq.heappush(self._events, (self.now + wait, self._count, work, process, life))

    def _boot(self, process: _Process) -> Iterator[float]:
        process.life += 1
        process.is_up, process.tenure = True, None
        lease = Lease(process.address, f"{process.address}#{process.life}", TTL_S, POLL_S)
        self._spawn(process, self._campaign(process, lease), 0.0)
        return
        yield

    def _mischief(self) -> Iterator[float]:
        while not self._is_quiet:
            process = self.random.choice(self.processes)
            delay = self.random.random() * self.random.choice((3.0, 15.0))
            draw = self.random.random()
            if draw < 0.3:
                process.paused_until = self.now + delay
            elif draw < 0.6:
                process.cut_off_until = self.now + delay
            elif draw < 0.8 and process.is_up:
                process.is_up, process.tenure = False, None
                self._spawn(None, self._boot(process), delay)
            else:
                self.store.deliver()
            yield self.random.random() * 8

    def _campaign(self, process: _Process, lease: Lease) -> Iterator[float]:
        """Election.run() without its threads."""
        rate, offset = process.rate, process.offset

        def clock() -> float:
            return offset + rate * self.now

        tenure: _Tenure | None = None
        while True:
            now = clock()
            if tenure is not None and not tenure.is_valid():
                tenure.end()
                tenure = None
            if tenure is None and lease.leads(now):
                tenure = _Tenure(self, lease, clock)
                self._spawn(process, self._reign(process, tenure), 0.0)
            action = plan(lease, now)
            if isinstance(action, Wait):
                # Not exactly then: rounding must not make it a little too early for ever.
                yield (action.until - now) / rate + 1e-6
                continue
            outcome = execute(self._lease_store, LEASE, action)
            if self._fault_rate and not self._is_quiet:
                yield self.random.random() * 0.2
            lease.note(action, outcome, now, clock())
            if self.variant.overstay and lease.valid_until > now:
                lease.valid_until += self.variant.overstay

    def _reign(self, process: _Process, tenure: _Tenure) -> Iterator[float]:
        """AdminServer._take_over(), then publishing as Registry does it."""
        kind = StateFile if self.variant.state_fence else _UnfencedStateFile
        file = kind("", CELL, tenure, store=self._state_store)
        while True:
            try:
                self._files.announce(process.address, tenure.check)
                models = file.load()
                tenure.check()
                file.save(models)
                break
            except SaxError:
                yield 0.5
                if tenure.is_over:
                    return
        self.takeovers += 1
        process.tenure = tenure
        while not tenure.is_over:
            yield self.random.random() * 6
            self._count += 1
            name = f"/sax/test/m{self._count}"
            new = [*models, admin_pb2.Model(model_id=name)]
            try:
                file.save(new)
            except ConflictError:
                with contextlib.suppress(SaxError):
                    models = file.load()
            except SaxError:
                continue
            else:
                models = new
                yield 0.0
                self.acknowledged.add(name)


def simulate(seed: int, variant: Variant | None = None) -> World:
    """Runs one schedule; BrokenPromiseError if it finds what must not be."""
    world = World(seed, variant or Variant())
    world.run()
    return world
