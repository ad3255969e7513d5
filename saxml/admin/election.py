"""Takes part in the election of a cell's leader: does what lease.plan() says, for ever.

election = Election(open_store(root, deadline_s=ttl / 3), name, cell, Lease(...))
running = asyncio.create_task(election.run())
tenure = await election.lead()               # leads now
await tenure.during(work(tenure))            # until that ends, or the term does
await election.resign(2.0)                   # another admin server takes over at once
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from saxml.admin.daemon_threads import DaemonThreads
from saxml.admin.lease import (
    Action,
    Failed,
    Lease,
    Outcome,
    Read,
    Seen,
    Wait,
    Write,
    execute,
    is_free,
    plan,
)
from saxml.common.errors import SaxError, UnavailableError
from saxml.common.names import CellId
from saxml.storage.base import Store

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


def lease_clock() -> float:
    """Seconds that never go back and, where the system can tell, count while it is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class TermOverError(UnavailableError):
    """This process does not lead any more, at least not for the term that was asked for."""


class Tenure:
    """One term of this process as the leader; check() and outgrow() may be called by any thread."""

    def __init__(self, cell: CellId, lease: Lease, clock: Callable[[], float]) -> None:
        self.term = lease.term
        self.server_id = lease.server_id
        self._cell = cell
        self._lease = lease
        self._clock = clock
        self._ended = asyncio.Event()
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether end() was called."""
        return self._is_over

    def is_valid(self) -> bool:
        """Whether this process may act for the term right now."""
        lease = self._lease
        return not self._is_over and lease.term == self.term and lease.leads(self._clock())

    def check(self) -> None:
        """Raises TermOverError unless is_valid(): call it right before acting for the term."""
        if not self.is_valid():
            raise TermOverError(
                f"this admin server does not lead {self._cell.full} any more: term {self.term} "
                "is over, please retry"
            )

    def outgrow(self, term: int) -> None:
        """Ends this term: `term` is in use elsewhere. The next one of this process is higher."""
        self._lease.floor = max(self._lease.floor, term, self.term + 1)

    def end(self) -> None:
        """Nothing is done for this term any more; the event loop's affair."""
        self._is_over = True
        self._ended.set()

    async def during(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`, which is cancelled, with TermOverError, when the term ends."""
        task, ended = asyncio.ensure_future(work), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            ended.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SaxError):
                await asyncio.wait((task,))
        raise TermOverError(f"term {self.term} is over")


class Election:
    """One candidate; belongs to one event loop, while the store is used by a thread of its own."""

    def __init__(
        self,
        store: Store,
        name: str,
        cell: CellId,
        lease: Lease,
        *,
        clock: Callable[[], float] = lease_clock,
    ) -> None:
        self.lease = lease
        self.tenure: Tenure | None = None
        self._store = store
        self._name = name
        self._cell = cell
        self._clock = clock
        # A store that hangs keeps one thread, not those that everybody uses.
        self._calls = DaemonThreads("lease")
        self._woken = asyncio.Event()
        self._changed = asyncio.Condition()
        self._rounds = 0
        self._told = ""
        self._failure = ""
        # Why the lease cannot be taken though it is free.
        self._stuck = ""

    async def run(self) -> None:
        """Takes part until cancelled; SaxError if the first look needs a person's help."""
        while True:
            now = self._clock()
            action = plan(self.lease, now)
            if not isinstance(action, Wait):
                await self._do(action)
                continue
            await self._notice(settled=True)
            self._woken.clear()
            # Not wait_for(), which may swallow a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(action.until - now, self.lease.poll_s))):
                    await self._woken.wait()

    async def settled(self) -> Tenure | None:
        """Waits until it is known whether this process leads; gives its tenure if it does."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._rounds > 0)
        return self.tenure

    async def lead(self) -> Tenure:
        """Waits until this process leads."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.tenure is not None)
        assert self.tenure is not None
        return self.tenure

    async def abstain(self, seconds: float) -> None:
        """Gives the lease back, and takes none for some time."""
        self.lease.abstain_until = self._clock() + seconds
        await self._notice()
        self._woken.set()

    async def resign(self, timeout_s: float) -> None:
        """Gives the lease back for good; returns when that is done, or could not be in time.

        run() must be running.
        """
        await self.abstain(math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._is_given_back)

    @property
    def leader_address(self) -> str:
        """Who has the lease, as last seen, or ""."""
        record = self.lease.record
        return record.holder if record is not None and not record.released else ""

    @property
    def waiting_for(self) -> str:
        """What a standby waits for, or ""."""
        return "" if self.tenure is not None else self._failure or self._stuck or self._told

    @property
    def stuck(self) -> str:
        """Why this process cannot lead though nobody does, or ""."""
        return self._stuck

    @property
    def _is_given_back(self) -> bool:
        # Before the first look there is nothing to give back.
        return not self.lease.is_mine() and (not self.lease.is_in_doubt or self._rounds == 0)

    async def _do(self, action: Read | Write) -> None:
        sent = self._clock()
        call = asyncio.get_running_loop().run_in_executor(
            self._calls, execute, self._store, self._name, action
        )
        # The term ends in time though the store does not answer.
        while not call.done():
            left = self.lease.valid_until - self._clock() if self.tenure else None
            await asyncio.wait((call,), timeout=None if left is None else max(0.0, left))
            await self._notice()
        outcome = call.result()
        self.lease.note(action, outcome, sent, self._clock())
        self._log_failure(action, outcome)
        if isinstance(action, Write):
            self._stuck = str(outcome.error) if isinstance(outcome, Failed) else ""
        elif isinstance(outcome, Seen) and not is_free(self.lease, self._clock()):
            self._stuck = ""
        await self._notice()

    async def _notice(self, *, settled: bool = False) -> None:
        """Begins and ends tenures as the lease says, and tells those who wait."""
        if self.tenure is not None and not self.tenure.is_valid():
            if self.lease.abstain_until <= self._clock():
                _logger.warning(
                    "Term %d of %s is over: %s", self.tenure.term, self._cell.full, self._why()
                )
            self.tenure.end()
            self.tenure = None
        if self.tenure is None and self.lease.leads(self._clock()):
            self.tenure = Tenure(self._cell, self.lease, self._clock)
            _logger.info("Leading %s, term %d", self._cell.full, self.tenure.term)
            self._told = ""
        self._rounds += settled
        if settled:
            self._log_waiting()
        async with self._changed:
            self._changed.notify_all()

    def _why(self) -> str:
        record = self.lease.record
        if record is not None and not self.lease.is_mine():
            return f"{record.holder} has the lease, term {record.term}"
        if self.lease.floor > self.lease.term:
            return f"there was a term {self.lease.floor}"
        return f"the lease was not renewed for {self.lease.ttl_s:g} s"

    def _log_waiting(self) -> None:
        record = self.lease.record
        if self.tenure is not None or record is None or self._clock() < self.lease.abstain_until:
            return
        text = f"{record.holder} leads {self._cell.full}, term {record.term}"
        if text != self._told and not record.released and not self.lease.is_mine():
            _logger.info("Standing by: %s", text)
            self._told = text

    def _log_failure(self, action: Action, outcome: Outcome) -> None:
        if not isinstance(outcome, Failed):
            self._failure = ""
            return
        error = outcome.error
        if not self._rounds and not isinstance(error, UnavailableError):
            raise error
        if str(error) != self._failure:
            what = "read" if isinstance(action, Read) else "write"
            _logger.warning("Cannot %s the lease of %s: %s", what, self._cell.full, error)
            self._failure = str(error)
