"""Elections in one event loop, on a store in memory that can hang and fail."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

import pytest

from saxml.admin.election import Election, TermOverError
from saxml.admin.lease import Lease
from saxml.common.names import CellId
from saxml.storage.memory import Fault, FaultKind, MemoryStore

CELL = CellId("test")
TTL_S = 0.6


class Candidate:
    """One election that runs."""

    def __init__(self, store: MemoryStore, address: str) -> None:
        lease = Lease(address, f"id of {address}", TTL_S, poll_s=0.02)
        self.election = Election(store, "lease.json", CELL, lease)
        self.running = asyncio.create_task(self.election.run())

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.wait((self.running,))


def _run(test: Callable[[MemoryStore], Awaitable[None]], store: MemoryStore | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test(store or MemoryStore())

    asyncio.run(main())


def test_the_first_leads_and_hands_over() -> None:
    async def test(store: MemoryStore) -> None:
        one = Candidate(store, "one")
        tenure = await one.election.settled()
        assert tenure is not None
        tenure.check()
        two = Candidate(store, "two")
        assert await two.election.settled() is None
        assert (two.election.leader_address, two.election.waiting_for) == (
            "one",
            "one leads /sax/test, term 1",
        )
        await asyncio.sleep(2 * TTL_S)
        assert two.election.tenure is None, "it renews"
        await one.election.resign(1.0)
        with pytest.raises(TermOverError, match="does not lead /sax/test any more: term 1 is over"):
            tenure.check()
        async with asyncio.timeout(TTL_S / 2):
            assert (await two.election.lead()).term == 2
        await one.end()
        await two.end()

    _run(test)


def test_work_for_a_term_ends_with_it() -> None:
    async def test(store: MemoryStore) -> None:
        one = Candidate(store, "one")
        tenure = await one.election.lead()
        assert await tenure.during(asyncio.sleep(0, "done")) == "done"
        cleaned = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        working = asyncio.create_task(tenure.during(work()))
        await asyncio.sleep(0)
        await one.election.abstain(0.1)
        with pytest.raises(TermOverError):
            await working
        assert cleaned.is_set()
        assert (await one.election.lead()).term == 2
        await one.end()

    _run(test)


def test_a_term_ends_in_time_although_the_store_hangs() -> None:
    hangs = threading.Event()
    goes_on = threading.Event()

    def injector(call: str, name: str) -> Fault | None:
        return Fault(FaultKind.DELAY, 1.0) if hangs.is_set() else None

    async def test(store: MemoryStore) -> None:
        one = Candidate(store, "one")
        tenure = await one.election.lead()
        hangs.set()
        with pytest.raises(TermOverError):
            async with asyncio.timeout(2 * TTL_S):
                await tenure.during(asyncio.sleep(60))
        assert not goes_on.is_set(), "the call is still under way"
        goes_on.set()
        hangs.clear()
        assert (await one.election.lead()).term >= 1
        await one.end()

    _run(test, MemoryStore(injector=injector, sleep=lambda seconds: _wait(goes_on)))


def _wait(event: threading.Event) -> None:
    assert event.wait(20)


def test_a_failing_store_is_waited_for() -> None:
    fails = True

    def injector(call: str, name: str) -> Fault | None:
        return Fault(FaultKind.ERROR) if fails else None

    async def test(store: MemoryStore) -> None:
        nonlocal fails
        one = Candidate(store, "one")
        assert await one.election.settled() is None
        assert "out of reach" in one.election.waiting_for
        fails = False
        assert (await one.election.lead()).term == 1
        await one.end()

    _run(test, MemoryStore(injector=injector))


def test_a_term_that_is_used_elsewhere_is_left() -> None:
    async def test(store: MemoryStore) -> None:
        one = Candidate(store, "one")
        tenure = await one.election.lead()
        tenure.outgrow(7)
        assert not tenure.is_valid()
        with contextlib.suppress(TermOverError):
            await tenure.during(asyncio.sleep(60))
        assert (await one.election.lead()).term == 8
        await one.end()

    _run(test)
