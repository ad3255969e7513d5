"""Rates, latencies and the limit of one method."""

import threading

import pytest

from saxml.common import errors
from saxml.server.stats import MethodStats


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_calls_are_counted_for_a_minute() -> None:
    clock = FakeClock()
    stats = MethodStats("lm.generate", 4, clock)
    for _ in range(6):
        with stats.admit("/sax/test/m"):
            clock.now += 2
    with pytest.raises(RuntimeError), stats.admit("/sax/test/m"):
        raise RuntimeError
    proto = stats.to_proto()
    assert proto.successes_per_second == pytest.approx(6 / 60)
    assert proto.errors_per_second == pytest.approx(1 / 60)
    assert proto.mean_latency_on_success_per_second == pytest.approx(2)
    assert proto.p99_latency_on_success_per_second == pytest.approx(2)
    clock.now += 61
    later = stats.to_proto()
    assert later.successes_per_second == later.errors_per_second == 0
    assert not later.HasField("mean_latency_on_success_per_second")


def test_more_calls_than_the_limit_are_refused_and_pending_ones_counted() -> None:
    stats = MethodStats("lm.generate", 2, FakeClock())
    with stats.admit("/sax/test/m"), stats.admit("/sax/test/m"):
        assert stats.to_proto().pending_reqs == 2
        with (
            pytest.raises(errors.ResourceExhaustedError, match="Too many requests: /sax/test/m 2"),
            stats.admit("/sax/test/m"),
        ):
            pass
    assert stats.to_proto().pending_reqs == 0
    with stats.admit("/sax/test/m"):
        pass


def test_idle_is_waited_for() -> None:
    stats = MethodStats("lm.generate", 2, FakeClock())
    assert stats.wait_until_idle(0)
    with stats.admit("/sax/test/m"):
        assert not stats.wait_until_idle(0.01)
        found: list[bool] = []
        waiting = threading.Thread(target=lambda: found.append(stats.wait_until_idle(10)))
        waiting.start()
    waiting.join()
    assert found == [True]


def test_latest_ten_batch_sizes_are_reported() -> None:
    stats = MethodStats("lm.generate", 4, FakeClock(), batch_size=2)
    with stats.admit("m"), stats.admit("m"), stats.admit("m"):
        assert list(stats.to_proto().recent_batch_sizes) == [1, 2, 2]
    for _ in range(9):
        with stats.admit("m"):
            pass
    assert list(stats.to_proto().recent_batch_sizes) == [2, *[1] * 9]


def refusal(stats: MethodStats) -> float:
    with pytest.raises(errors.ResourceExhaustedError) as refused, stats.admit("m"):
        pass
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


def test_refused_callers_are_told_when_there_will_be_room() -> None:
    clock = FakeClock()
    stats = MethodStats("lm.generate", 1, clock)
    with stats.admit("m"):
        assert refusal(stats) == 0.5  # nothing has ended yet
    clock.now += 1
    for _ in range(10):
        with stats.admit("m"):
            clock.now += 0.2
    with stats.admit("m"):
        first = refusal(stats)
        assert first == pytest.approx(3 / 11)  # eleven have ended in three seconds
        # The next ones wait for the next ends.
        assert refusal(stats) == pytest.approx(2 * first)
        assert refusal(stats) == pytest.approx(3 * first)
        clock.now += 10
        assert refusal(stats) <= 5


def test_queue_that_is_full_says_when_to_come_again_too() -> None:
    stats = MethodStats("lm.generate", 4, FakeClock())
    with pytest.raises(errors.ResourceExhaustedError) as refused, stats.admit("m"):
        raise errors.ResourceExhaustedError("the queue is full")
    assert refused.value.retry_after_s == 0.5
