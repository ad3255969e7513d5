import random

import grpc
import pytest

from saxml.client.driver import ThreadDriver
from saxml.client.driver import run as finish
from saxml.client.retry import ADMIN_CODES, SERVER_CODES, Backoff, Deadline, with_retry
from saxml.common.errors import (
    DeadlineExceededError,
    NotFoundError,
    ResourceExhaustedError,
    SaxError,
    UnavailableError,
    from_code,
)


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Script:
    """Fails with the given errors, one a try, then succeeds."""

    def __init__(self, *errors: SaxError) -> None:
        self.errors = list(errors)
        self.tries = 0

    async def __call__(self, target: None) -> str:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def anywhere() -> None:
    return None


def run(script: Script, codes: frozenset[grpc.StatusCode], timeout_s: float = 60) -> FakeClock:
    clock = FakeClock()
    result = finish(
        with_retry(
            anywhere,
            script,
            codes=codes,
            deadline=Deadline(clock, timeout_s),
            backoff=Backoff(random.Random(1)),
            sleep=ThreadDriver(clock).sleep,
        )
    )
    assert result == "done"
    return clock


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
@pytest.mark.parametrize("codes", [SERVER_CODES, ADMIN_CODES])
def test_only_the_codes_of_the_policy_are_tried_again(
    code: grpc.StatusCode, codes: frozenset[grpc.StatusCode]
) -> None:
    script = Script(from_code(code, "no"))
    if code in codes:
        run(script, codes)
        assert script.tries == 2
    else:
        with pytest.raises(SaxError, match=r"^no$") as caught:
            run(script, codes)
        assert caught.value.code is code
        assert script.tries == 1


def test_server_policy_is_unavailable_exhausted_not_found() -> None:
    assert {c.name for c in SERVER_CODES} == {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "NOT_FOUND"}
    assert {c.name for c in ADMIN_CODES} == {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}


def test_gives_up_before_the_deadline_with_the_last_error() -> None:
    script = Script(*[UnavailableError("down")] * 9999)
    with pytest.raises(UnavailableError, match=r"down \(gave up after \d+ tries in 60 s\)"):
        run(script, SERVER_CODES)
    assert 50 < script.tries < 90  # 10 ms growing by a tenth fill a minute in about 68 tries


def test_never_sleeps_past_the_deadline() -> None:
    clock = FakeClock()
    with pytest.raises(ResourceExhaustedError):
        finish(
            with_retry(
                anywhere,
                Script(*[ResourceExhaustedError("full")] * 9999),
                codes=SERVER_CODES,
                deadline=Deadline(clock, 5),
                backoff=Backoff(random.Random(2)),
                sleep=ThreadDriver(clock).sleep,
            )
        )
    assert clock.now <= 105


def test_error_of_choosing_is_final() -> None:
    async def choose() -> None:
        raise NotFoundError("not published")

    clock = FakeClock()
    script = Script()
    with pytest.raises(NotFoundError, match="not published"):
        finish(
            with_retry(
                choose,
                script,
                codes=SERVER_CODES,
                deadline=Deadline(clock, 5),
                backoff=Backoff(random.Random(2)),
                sleep=ThreadDriver(clock).sleep,
            )
        )
    assert script.tries == 0
    assert not clock.pauses


def test_deadline_is_reported_before_the_error_it_followed() -> None:
    script = Script(UnavailableError("down"), DeadlineExceededError("late"))
    with pytest.raises(DeadlineExceededError, match="late; the try before failed: down"):
        run(script, SERVER_CODES)


def test_no_time_at_all_is_a_deadline_error() -> None:
    with pytest.raises(DeadlineExceededError):
        run(Script(), SERVER_CODES, timeout_s=0)


def test_pauses_start_at_ten_milliseconds_grow_by_a_tenth_and_are_capped() -> None:
    backoff = Backoff(random.Random(3))
    pauses = [backoff.next() for _ in range(200)]
    bounds = [min(20.0, 0.01 * 1.1**i) for i in range(200)]
    assert all(b / 2 <= p <= b * 1.0001 for p, b in zip(pauses, bounds, strict=True))
    assert max(pauses) > 15
    assert len({p / b for p, b in zip(pauses, bounds, strict=True)}) > 100  # jittered
    backoff.reset()
    assert backoff.next() <= 0.01


def busy(retry_after_s: float) -> SaxError:
    error = ResourceExhaustedError("full")
    error.retry_after_s = retry_after_s
    return error


def test_pause_is_as_long_as_the_server_asks_for_and_not_the_same_for_all() -> None:
    clock = run(Script(busy(2.0), busy(0.001)), SERVER_CODES)
    assert 2.0 <= clock.pauses[0] <= 2.5
    assert clock.pauses[1] < 0.02  # no less than without being asked
    assert len({Backoff(random.Random(i)).next(2.0) for i in range(5)}) == 5


def test_no_pause_that_is_asked_for_uses_up_the_time() -> None:
    clock = run(Script(busy(60.0), busy(60.0)), SERVER_CODES, timeout_s=4)
    assert clock.pauses[0] <= 2.5
    assert clock.pauses[1] <= 1.25


def test_who_can_go_elsewhere_does_not_wait_as_long_as_asked() -> None:
    clock = FakeClock()
    script = Script(busy(2.0))
    finish(
        with_retry(
            anywhere,
            script,
            codes=SERVER_CODES,
            deadline=Deadline(clock, 60),
            backoff=Backoff(random.Random(1)),
            sleep=ThreadDriver(clock).sleep,
            patient=lambda: False,
        )
    )
    assert clock.pauses[0] < 0.02
