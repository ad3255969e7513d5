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
