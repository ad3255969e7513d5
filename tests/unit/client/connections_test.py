import pytest

from saxml.client.connections import ConnectionTable
from saxml.client.driver import ThreadDriver
from saxml.common.clock import SystemClock
from saxml.common.errors import CancelledError, InternalError, UnavailableError


class FakeClock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_connection_is_kept_for_the_next_call() -> None:
    table = ConnectionTable(ThreadDriver(SystemClock()), FakeClock())
    with table.use("127.0.0.1:1") as first:
        pass
    with table.use("127.0.0.1:1") as second:
        assert second is first
    table.close()


def test_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    clock = FakeClock()
    table = ConnectionTable(ThreadDriver(SystemClock()), clock, idle_s=600)
    with table.use("127.0.0.1:1"):
        pass
    with table.use("127.0.0.1:2"):
        clock.sleep(599)
        table.purge()
        assert table.addresses() == ["127.0.0.1:1", "127.0.0.1:2"]
        clock.sleep(1)
        table.purge()
        assert table.addresses() == ["127.0.0.1:2"]
    table.purge()
    assert table.addresses() == ["127.0.0.1:2"]  # used until just now
    table.close()


def test_unavailable_server_is_dialled_anew_and_others_keep_their_calls() -> None:
    table = ConnectionTable(ThreadDriver(SystemClock()), FakeClock())
    with table.use("127.0.0.1:1") as held:
        with pytest.raises(UnavailableError), table.use("127.0.0.1:1"):
            raise UnavailableError("gone")
        with table.use("127.0.0.1:1") as fresh:
            assert fresh is not held
        held.unary_unary("/x", bytes, bytes)  # still open: a closed channel raises ValueError
    table.close()


def test_other_errors_keep_the_connection() -> None:
    table = ConnectionTable(ThreadDriver(SystemClock()), FakeClock())
    with table.use("127.0.0.1:1") as first:
        pass
    with pytest.raises(InternalError), table.use("127.0.0.1:1"):
        raise InternalError("bad")
    with table.use("127.0.0.1:1") as second:
        assert second is first
    table.close()


def test_closed_table_refuses() -> None:
    table = ConnectionTable(ThreadDriver(SystemClock()), FakeClock())
    table.close()
    with pytest.raises(CancelledError), table.use("127.0.0.1:1"):
        pass
