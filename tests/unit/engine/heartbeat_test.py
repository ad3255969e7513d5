"""When a loop counts as standing still."""

from saxml.engine.heartbeat import LEAST_LIMIT_S, SLOWEST_FACTOR, Heartbeat


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_turn_may_take_up_to_the_limit_and_the_next_beat_ends_a_stall() -> None:
    clock = _Clock()
    heartbeat = Heartbeat(clock)
    clock.now += 1000
    assert heartbeat.stall() is None  # nothing has begun
    heartbeat.beat()
    clock.now += LEAST_LIMIT_S
    assert heartbeat.stall() is None
    assert heartbeat.seconds == LEAST_LIMIT_S
    clock.now += 13
    stall = heartbeat.stall()
    assert stall is not None
    assert not stall.hung
    assert str(stall) == (
        "the present step has been running for 73 s; 60 s are the most that is expected"
    )
    heartbeat.beat()
    assert heartbeat.stall() is None


def test_slow_steps_raise_the_limit_and_stalls_do_not() -> None:
    clock = _Clock()
    heartbeat = Heartbeat(clock)
    heartbeat.beat()
    clock.now += 7
    heartbeat.beat()
    clock.now += 7 * SLOWEST_FACTOR
    assert heartbeat.stall() is None
    clock.now += 1
    assert heartbeat.stall() is not None
    heartbeat.beat()
    clock.now += 7 * SLOWEST_FACTOR + 1
    assert heartbeat.stall() is not None


def test_what_steps_took_at_load_sets_the_limit() -> None:
    clock = _Clock()
    heartbeat = Heartbeat(clock)
    heartbeat.expect(0.1)
    heartbeat.expect(70)
    heartbeat.beat()
    clock.now += 70 * SLOWEST_FACTOR
    assert heartbeat.stall() is None
    clock.now += 1
    assert heartbeat.stall() is not None


def test_a_long_stall_counts_as_hung() -> None:
    clock = _Clock()
    heartbeat = Heartbeat(clock, least_limit_s=2)
    heartbeat.beat()
    clock.now += 10
    assert (stall := heartbeat.stall()) is not None
    assert not stall.hung
    clock.now += 1
    assert (stall := heartbeat.stall()) is not None
    assert stall.hung


def test_a_loop_that_has_ended_does_not_stand_still() -> None:
    clock = _Clock()
    heartbeat = Heartbeat(clock)
    heartbeat.beat()
    heartbeat.stop()
    clock.now += 1e6
    assert heartbeat.stall() is None
    assert heartbeat.seconds == 0
