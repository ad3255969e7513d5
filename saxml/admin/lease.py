"""Who leads a cell: a lease kept in one object, and the decisions about it.

The object is written only on condition that it is at the generation that was read, so of all who
want it one gets it. Two rules make sure that nobody acts for a term that is over:

- The holder counts the time to live from *before* its last renewal was sent, on its own clock, and
  stops a fifth of it early.
- A standby counts it from *after* it first saw the present generation, on its own clock. It
  compares no times of other machines.

Clocks may run up to 10 % too fast or too slow for that: 0.8/0.9 of the time to live is less than
1/1.1 of it. Clocks beyond that, and processes that sleep between a look at the clock and a write,
are the affair of the term: what is written (state.py) and what is sent to model servers carry it.

Nothing here waits, reads a clock, or touches a store but execute(). The caller does in a loop:

    action = plan(lease, now())
    sent = now()
    outcome = execute(store, name, action)        # unless it is a Wait
    lease.note(action, outcome, sent, now())
"""

import math
from dataclasses import dataclass, replace

from saxml.common.errors import FailedPreconditionError, SaxError
from saxml.storage.base import ConflictError, Store
from saxml.storage.lease_record import Record

DEFAULT_TTL_S = 10.0
# Parts of the time to live: when to renew, when to stop acting, how long to wait after a failure.
_RENEW, _ACT, _RETRY = 1 / 3, 0.8, 1 / 20


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`, on the caller's clock."""

    until: float


@dataclass(frozen=True, slots=True)
class Read:
    """Read the object."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write the object if it is at this generation."""

    record: Record
    if_generation: int


Action = Wait | Read | Write


@dataclass(frozen=True, slots=True)
class Seen:
    """The object that was read (no record: there is none), or that was written."""

    record: Record | None
    generation: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """The object is at another generation: nothing was written."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Not read, or perhaps not written."""

    error: SaxError


Outcome = Seen | Conflict | Failed


@dataclass(slots=True)
class Lease:
    """What one process knows of the lease; plain data, changed by note() alone but where said."""

    holder: str
    server_id: str
    ttl_s: float
    # How often a standby looks.
    poll_s: float
    # The object, as last read or written, and whether it must be read before anything else.
    generation: int = -1
    record: Record | None = None
    is_in_doubt: bool = True
    # When the present generation was first seen, and when the object was last seen at all.
    changed_at: float = -math.inf
    seen_at: float = -math.inf
    # The term that is held, 0 for none, and until when it may be acted for.
    term: int = 0
    valid_until: float = -math.inf
    renew_at: float = -math.inf
    retry_at: float = -math.inf
    # The highest term known of. Anybody may raise it: a holder of a lower term leads no more.
    floor: int = 0
    # Until then nothing is taken, and what is held is given back. Anybody may set it.
    abstain_until: float = -math.inf
    # The first look of a new process, which may find a former one at its own address.
    is_first_look: bool = True
    renewals: int = 0
    failed_renewals: int = 0

    def leads(self, now: float) -> bool:
        """Whether this process may act as the leader."""
        return 0 < self.term == self.floor and self.abstain_until <= now < self.valid_until

    def is_mine(self) -> bool:
        """Whether the object names this process as the one that has it."""
        record = self.record
        return record is not None and record.server_id == self.server_id and not record.released

    def note(self, action: Action, outcome: Outcome, sent: float, now: float) -> None:
        """Takes over what came of an action that began at `sent` and ended at `now`."""
        if isinstance(outcome, Seen):
            self._note_seen(outcome, now)
            if isinstance(action, Write):
                self._note_written(action.record, sent)
            elif not self.is_mine() or (self.record and self.record.term != self.term):
                self.term = 0
            elif self.leads(now):
                # A renewal of ours whose reply was lost. When it was written is not known.
                self.renew_at = now
            return
        # What is in the object now must be read; until then time alone decides who leads.
        if isinstance(action, Write):
            self.is_in_doubt, self.is_first_look = True, False
            if self.term:
                self.failed_renewals += 1
        if isinstance(outcome, Failed):
            self.retry_at = now + self.ttl_s * _RETRY

    def _note_seen(self, seen: Seen, now: float) -> None:
        if seen.generation != self.generation:
            self.changed_at = now
        self.generation, self.record, self.seen_at = seen.generation, seen.record, now
        self.is_in_doubt = False
        if seen.record is not None:
            self.floor = max(self.floor, seen.record.term)

    def _note_written(self, record: Record, sent: float) -> None:
        self.is_first_look = False
        if record.released:
            self.term = 0
            return
        if record.term == self.term:
            self.renewals += 1
        self.term = record.term
        self.valid_until = sent + self.ttl_s * _ACT
        self.renew_at = sent + self.ttl_s * _RENEW


def plan(lease: Lease, now: float) -> Action:
    """What to do now."""
    if lease.is_in_doubt:
        if now >= lease.retry_at:
            return Read()
        return Wait(min(lease.retry_at, lease.valid_until) if lease.leads(now) else lease.retry_at)
    if lease.leads(now):
        if now >= max(lease.renew_at, lease.retry_at):
            return Write(_claim(lease, lease.term), lease.generation)
        return Wait(min(max(lease.renew_at, lease.retry_at), lease.valid_until))
    if now < lease.abstain_until:
        if lease.is_mine() and now >= lease.retry_at:
            assert lease.record is not None
            return Write(replace(lease.record, released=True), lease.generation)
    elif is_free(lease, now):
        if now >= lease.retry_at:
            return Write(_claim(lease, lease.floor + 1), lease.generation)
        return Wait(lease.retry_at)
    lease.is_first_look = False
    look_at = max(lease.seen_at + lease.poll_s, lease.retry_at)
    return Read() if now >= look_at else Wait(look_at)


def is_free(lease: Lease, now: float) -> bool:
    """Whether the object, as last seen, may be taken."""
    record = lease.record
    return (
        record is None
        or record.released
        # This process does not act for it any more.
        or record.server_id == lease.server_id
        # The former process at this address is gone: this one has its port.
        or (lease.is_first_look and record.holder == lease.holder)
        or now - lease.changed_at >= record.ttl_s
    )


def execute(store: Store, name: str, action: Read | Write) -> Outcome:
    """Does what was planned, once."""
    try:
        if isinstance(action, Write):
            generation = store.write(
                name, action.record.to_bytes(), if_generation=action.if_generation
            )
            return Seen(action.record, generation)
        stored = store.read(name)
        if stored is None:
            return Seen(None, 0)
        return Seen(Record.from_bytes(stored.data), stored.generation)
    except ConflictError:
        return Conflict()
    except SaxError as error:
        return Failed(error)
    except ValueError as error:
        return Failed(
            FailedPreconditionError(
                f"{store.root}/{name} is not a lease of a SAX cell ({error}). Stop all admin "
                "servers of the cell and remove it: terms go on from state.proto"
            )
        )


def _claim(lease: Lease, term: int) -> Record:
    return Record(lease.holder, lease.server_id, term, lease.ttl_s)
