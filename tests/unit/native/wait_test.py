"""Threads: while one waits in C++, the others go on."""

import collections.abc
import concurrent.futures
import math
import threading
import time

import numpy as np
import pytest

from saxml import native

LONG = 60.0  # a wait that is not woken fails by the clock, not by hanging


@pytest.fixture
def scheduler() -> native.Scheduler:
    return native.Scheduler(
        num_pages=8,
        page_size=4,
        max_rows=2,
        buckets=[4],
        max_model_len=16,
        queue_capacity=4,
        row_params=0,
    )


def submit(scheduler: native.Scheduler, request_id: int) -> None:
    none = np.array([], np.int32)
    scheduler.submit(
        request_id,
        np.array([1, 2], np.int32),
        width=1,
        fork_at_start=False,
        max_new_tokens=2,
        targets=none,
        row_params=none,
        deadline=math.inf,
    )


def wakes(scheduler: native.Scheduler, action: collections.abc.Callable[[], None]) -> bool:
    """Whether `action`, taken while another thread waits, ends its wait."""
    entered = threading.Event()

    def wait() -> tuple[bool, float]:
        entered.set()
        begin = time.monotonic()
        return scheduler.wait(LONG), time.monotonic() - begin

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        entered.wait()
        assert not concurrent.futures.wait([waiting], timeout=0.05).done, "it did not wait"
        action()
        woken, seconds = waiting.result(timeout=LONG)
    return woken and seconds < LONG / 2


def test_submit_cancel_and_wake_end_a_wait(scheduler: native.Scheduler) -> None:
    assert wakes(scheduler, lambda: submit(scheduler, 1))
    scheduler.finish(1)
    assert wakes(scheduler, scheduler.wake)
    assert not scheduler.wait(0.0), "a wake is used up"


def test_wait_is_over_at_once_while_requests_wait_or_run(scheduler: native.Scheduler) -> None:
    submit(scheduler, 1)
    assert scheduler.wait(LONG)
    assert scheduler.plan(0.0) is not None
    assert scheduler.wait(LONG)
    scheduler.finish(1)
    assert not scheduler.wait(0.001)


def test_wait_times_out(scheduler: native.Scheduler) -> None:
    begin = time.monotonic()
    assert not scheduler.wait(0.05)
    assert time.monotonic() - begin >= 0.05
    assert not scheduler.wait(-1.0)


def test_waiting_does_not_hold_the_gil(scheduler: native.Scheduler) -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1

    done = threading.Event()
    counter = threading.Thread(target=count)
    counter.start()
    before = turns
    scheduler.wait(0.2)
    during = turns - before
    done.set()
    counter.join()
    assert during > 1000, "the other thread stood still"


def test_many_threads_submit_and_every_request_is_served(scheduler: native.Scheduler) -> None:
    def client(number: int) -> None:
        for i in range(50):
            while True:
                try:
                    submit(scheduler, number * 50 + i)
                    break
                except native.QueueFullError:
                    time.sleep(0)
            if i % 7 == 0:
                scheduler.cancel(number * 50 + i)

    ended = set[int]()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(client, number) for number in range(3)]
        while len(ended) < 150:
            assert scheduler.wait(LONG)
            plan = scheduler.plan(0.0)
            ended.update(request_id for request_id, _ in scheduler.take_dropped())
            for request_id in [] if plan is None else plan.entry_request.tolist():
                scheduler.finish(request_id)
                ended.add(request_id)
        for done in clients:
            done.result()
    scheduler.check_integrity()
    assert scheduler.free_pages == 8
