"""Rates and latencies of one method over the last minute, as GetStatus reports them."""

import collections
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from saxml.common import errors
from saxml.common.clock import Clock
from saxml.proto import modelet_pb2

_WINDOW_S = 60.0
_MAX_SAMPLES = 100


class MethodStats:
    """Counts calls and bounds how many run at once; safe from any thread."""

    def __init__(self, method: str, limit: int, clock: Clock) -> None:
        self.method = method
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._pending = 0
        self._done: collections.deque[tuple[float, float]] = collections.deque()
        self._failed: collections.deque[float] = collections.deque()

    @contextmanager
    def admit(self, key: str) -> Iterator[None]:
        """Wraps one call. Raises ResourceExhaustedError when `limit` calls are being served."""
        with self._lock:
            if self._pending >= self._limit:
                raise errors.ResourceExhaustedError(f"Too many requests: {key} {self._limit}")
            self._pending += 1
        start = self._clock.monotonic()
        failed = True
        try:
            yield
            failed = False
        finally:
            now = self._clock.monotonic()
            with self._lock:
                self._pending -= 1
                if not self._pending:
                    self._idle.notify_all()
                if failed:
                    self._failed.append(now)
                else:
                    self._done.append((now, now - start))
                self._forget(now)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Whether no call is being served, at the latest after timeout_s."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._pending, timeout_s)

    def _forget(self, now: float) -> None:
        while self._done and self._done[0][0] < now - _WINDOW_S:
            self._done.popleft()
        while self._failed and self._failed[0] < now - _WINDOW_S:
            self._failed.popleft()

    def to_proto(self) -> modelet_pb2.GetStatusResponse.MethodStats:
        """Per-second rates over a minute; latencies, in seconds, of the latest hundred
        successes."""
        with self._lock:
            self._forget(self._clock.monotonic())
            latencies = [seconds for _, seconds in self._done][-_MAX_SAMPLES:]
            stats = modelet_pb2.GetStatusResponse.MethodStats(
                method=self.method,
                errors_per_second=len(self._failed) / _WINDOW_S,
                successes_per_second=len(self._done) / _WINDOW_S,
                pending_reqs=self._pending,
            )
        if latencies:
            p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).tolist()
            stats.mean_latency_on_success_per_second = float(np.mean(latencies))
            stats.p50_latency_on_success_per_second = p50
            stats.p95_latency_on_success_per_second = p95
            stats.p99_latency_on_success_per_second = p99
        return stats
