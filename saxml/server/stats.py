"""Rates and latencies of one method over the last minute, as GetStatus reports them."""

import collections
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from saxml.common import errors
from saxml.common.clock import Clock
from saxml.proto import modelet_pb2
from saxml.server.retry_hint import RetryHint

_WINDOW_S = 60.0
_MAX_SAMPLES = 100
_MAX_BATCHES = 10


class MethodStats:
    """Counts calls and bounds how many run at once; safe from any thread.

    There are no batches to count, since requests come and go at every step. What GetStatus calls
    recent batch sizes is how many calls of the method were under way when each of the latest ten
    began, itself included, up to batch_size, which is how many the engine decodes together.
    """

    def __init__(
        self, method: str, limit: int, clock: Clock, *, batch_size: int | None = None
    ) -> None:
        self.method = method
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._pending = 0
        self._done: collections.deque[tuple[float, float]] = collections.deque()
        self._failed: collections.deque[float] = collections.deque()
        self._batch_size = limit if batch_size is None else batch_size
        self._batches: collections.deque[int] = collections.deque(maxlen=_MAX_BATCHES)
        self._retry = RetryHint()

    @contextmanager
    def admit(self, key: str) -> Iterator[None]:
        """Wraps one call.

        Raises ResourceExhaustedError when `limit` calls are being served. This one, and one that
        the call raises because a queue is full, say when to come again.
        """
        start = self._clock.monotonic()
        with self._lock:
            if self._pending >= self._limit:
                full = errors.ResourceExhaustedError(f"Too many requests: {key} {self._limit}")
                full.retry_after_s = self._retry.refused(start)
                raise full
            self._pending += 1
            self._batches.append(min(self._pending, self._batch_size))
        failed = True
        try:
            yield
            failed = False
        except errors.ResourceExhaustedError as full:
            with self._lock:
                full.retry_after_s = self._retry.refused(self._clock.monotonic())
            raise
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
                    self._retry.ended(now)
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
                recent_batch_sizes=self._batches,
            )
        if latencies:
            p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).tolist()
            stats.mean_latency_on_success_per_second = float(np.mean(latencies))
            stats.p50_latency_on_success_per_second = p50
            stats.p95_latency_on_success_per_second = p95
            stats.p99_latency_on_success_per_second = p99
        return stats
