"""When a failed call is made again, and after how long."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from saxml.common.clock import Clock
from saxml.common.errors import DeadlineExceededError, SaxError, from_code

DEFAULT_TIMEOUT_S = 60.0

# A model server answers NOT_FOUND for a model that it is still loading.
SERVER_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.NOT_FOUND,
    }
)
FAIL_FAST_SERVER_CODES = frozenset({grpc.StatusCode.NOT_FOUND})
ADMIN_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})

_Target = TypeVar("_Target")
_Result = TypeVar("_Result")


class Deadline:
    """A point in time by which a call, with all its tries, must have ended."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._clock = clock
        self.timeout_s = timeout_s
        self._end = clock.monotonic() + timeout_s

    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - self._clock.monotonic())


class Backoff:
    """Growing pauses: start, then `factor` times longer each, capped; the last half is random."""

    def __init__(
        self,
        rng: random.Random,
        start_s: float = 0.01,
        factor: float = 1.1,
        cap_s: float = 20.0,
    ) -> None:
        self._rng = rng
        self._start_s, self._factor, self._cap_s = start_s, factor, cap_s
        self._pause_s = start_s

    def next(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait before the next try; not less than asked for, up to a quarter longer so
        that not all who were asked come at once."""
        pause = self._pause_s
        self._pause_s = min(self._cap_s, pause * self._factor)
        asked = min(at_least_s, self._cap_s) * self._rng.uniform(1.0, 1.25)
        return max(asked, pause * self._rng.uniform(0.5, 1.0))

    def reset(self) -> None:
        """Something succeeded: the next pause is short again."""
        self._pause_s = self._start_s


async def with_retry(
    choose: Callable[[], Awaitable[_Target]],
    attempt: Callable[[_Target], Awaitable[_Result]],
    *,
    codes: frozenset[grpc.StatusCode],
    deadline: Deadline,
    backoff: Backoff,
    sleep: Callable[[float], Awaitable[None]],
    at_once: Callable[[SaxError], bool] = lambda error: False,
    patient: Callable[[], bool] = lambda: True,
) -> _Result:
    """Chooses a target and tries it, again and again until the deadline.

    An error of `choose` is final, an error of `attempt` is final unless its status is one of
    `codes`. When the next pause would pass the deadline, the last error is raised, with the
    number of tries; an attempt that the deadline itself cuts off raises DeadlineExceededError.
    at_once: whether the next try needs no pause, because it goes elsewhere. patient: whether the
    pause is as long as the error asks for (retry_after_s), though never more than half of what is
    left.
    """
    tries = 0
    last: SaxError | None = None
    while True:
        if deadline.remaining() <= 0:
            raise last or DeadlineExceededError(f"deadline of {deadline.timeout_s:g} s exceeded")
        target = await choose()
        tries += 1
        try:
            return await attempt(target)
        except SaxError as error:
            if error.code is grpc.StatusCode.DEADLINE_EXCEEDED and last is not None:
                raise DeadlineExceededError(f"{error}; the try before failed: {last}") from error
            if error.code not in codes:
                raise
            last = error
        if at_once(last):
            continue
        asked = last.retry_after_s if patient() else None
        pause = backoff.next(min(asked or 0.0, deadline.remaining() / 2))
        if pause >= deadline.remaining():
            raise from_code(
                last.code, f"{last} (gave up after {tries} tries in {deadline.timeout_s:g} s)"
            ) from last
        await sleep(pause)
