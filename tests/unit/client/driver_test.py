import asyncio
import threading
import time
from collections.abc import AsyncGenerator

import pytest

from saxml.client.aio_driver import AioDriver
from saxml.client.bell import Bell
from saxml.client.driver import ThreadDriver, iterate, run
from saxml.common.clock import SystemClock
from saxml.common.errors import FailedPreconditionError


def test_run_gives_the_outcome_or_the_error() -> None:
    async def three() -> int:
        return 3

    async def fails() -> None:
        raise ValueError("no")

    assert run(three()) == 3
    with pytest.raises(ValueError, match="no"):
        run(fails())


def test_coroutine_that_suspends_is_refused() -> None:
    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="suspended"):
        run(waits())


def test_run_works_inside_an_event_loop() -> None:
    async def main() -> int:
        async def three() -> int:
            return 3

        return run(three())

    assert asyncio.run(main()) == 3


def test_iterator_that_is_closed_closes_the_generator() -> None:
    ended = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for i in range(3):
                yield i
        finally:
            ended.append(True)

    assert list(iterate(numbers())) == [0, 1, 2]
    items = iterate(numbers())
    assert next(items) == 0
    items.close()
    assert ended == [True, True]


def test_ring_between_look_and_wait_is_not_missed() -> None:
    bell = Bell()
    count = bell.count
    bell.ring()
    assert run(ThreadDriver(SystemClock()).wait(bell, count, 10))
    assert asyncio.run(AioDriver().wait(bell, count, 10))


def test_wait_ends_with_its_time() -> None:
    bell = Bell()
    assert not run(ThreadDriver(SystemClock()).wait(bell, bell.count, 0.01))
    assert not asyncio.run(AioDriver().wait(bell, bell.count, 0.01))
    bell.ring()  # nobody listens any more, in a loop that has ended


def test_ring_from_a_thread_wakes_a_loop() -> None:
    bell = Bell()
    timer = threading.Timer(0.1, bell.ring)
    timer.start()
    start = time.monotonic()
    assert asyncio.run(AioDriver().wait(bell, bell.count, 20))
    assert time.monotonic() - start < 10
    timer.join()


def test_other_event_loop_is_refused() -> None:
    driver = AioDriver()
    asyncio.run(driver.blocking(lambda: None))
    with pytest.raises(FailedPreconditionError, match="another event loop"):
        asyncio.run(driver.blocking(lambda: None))
