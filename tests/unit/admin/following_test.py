"""Whoever follows an object is told of every change."""

import asyncio
import logging

import pytest

from saxml.admin.following import follow
from saxml.storage.memory import Fault, FaultKind, MemoryStore


async def _until(calls: list[bytes], count: int) -> None:
    async with asyncio.timeout(10):
        while len(calls) < count:
            await asyncio.sleep(0.01)


def test_it_calls_back_at_first_and_after_each_write() -> None:
    async def run() -> None:
        store, calls = MemoryStore(), list[bytes]()

        async def react() -> None:
            stored = store.read("a")
            calls.append(stored.data if stored else b"none")

        task = asyncio.create_task(follow(store, "a", react, period_s=60.0))
        for number in range(3):
            await _until(calls, number + 1)
            store.write("a", b"%d" % number)
        await _until(calls, 4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert calls == [b"none", b"0", b"1", b"2"]

    asyncio.run(run())


def test_it_calls_back_where_nothing_is_written() -> None:
    async def run() -> None:
        calls = list[bytes]()

        async def react() -> None:
            calls.append(b"")

        task = asyncio.create_task(follow(MemoryStore(), "a", react, period_s=0.02))
        await _until(calls, 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_store_that_fails_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "saxml")

    async def run() -> None:
        faults = [Fault(FaultKind.ERROR)] * 3
        store, calls = MemoryStore(injector=lambda *_: faults.pop() if faults else None), []

        async def react() -> None:
            calls.append(b"")

        task = asyncio.create_task(follow(store, "a", react, period_s=0.02))
        await _until(calls, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert [m for m in caplog.messages if "Cannot watch mem:///a: cannot watch" in m] == [
        caplog.messages[0]
    ]
