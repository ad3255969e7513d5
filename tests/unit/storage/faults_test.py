"""The store in memory fails when it is told to."""

import pytest

from saxml.common.errors import UnavailableError
from saxml.storage.base import Stored
from saxml.storage.memory import Fault, FaultKind, MemoryStore


def _store(kind: FaultKind, call: str, delay_s: float = 0.0) -> tuple[MemoryStore, list[float]]:
    """A store with the object x = b"0" in which every such call goes wrong; and its delays."""
    delays: list[float] = []
    store = MemoryStore("mem://faulty", sleep=delays.append)
    store.write("x", b"0")
    store.injector = lambda c, name: Fault(kind, delay_s) if c == call else None
    return store, delays


@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.LOST_REPLY])
def test_a_read_that_fails(kind: FaultKind) -> None:
    store, _ = _store(kind, "read")
    with pytest.raises(UnavailableError, match="cannot read mem://faulty/x"):
        store.read("x")


def test_a_write_that_fails() -> None:
    store, _ = _store(FaultKind.ERROR, "write")
    with pytest.raises(UnavailableError, match="cannot write mem://faulty/x"):
        store.write("x", b"1", if_generation=1)
    assert store.read("x") == Stored(b"0", 1)


def test_a_write_whose_reply_is_lost_is_done() -> None:
    store, _ = _store(FaultKind.LOST_REPLY, "write")
    with pytest.raises(UnavailableError, match="the reply to a write was lost"):
        store.write("x", b"1", if_generation=1)
    assert store.read("x") == Stored(b"1", 2)


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_late_write_arrives_if_its_condition_holds(overtaken: bool) -> None:
    store, _ = _store(FaultKind.LATE, "write")
    with pytest.raises(UnavailableError):
        store.write("x", b"1", if_generation=1)
    assert store.read("x") == Stored(b"0", 1)
    store.injector = None
    if overtaken:
        store.write("x", b"2", if_generation=1)
    store.deliver()
    store.deliver()
    assert store.read("x") == Stored(b"2" if overtaken else b"1", 2)


def test_a_stale_read_gives_what_was_there_before() -> None:
    store, _ = _store(FaultKind.STALE, "read")
    assert store.read("x") is None
    store.write("x", b"1")
    assert store.read("x") == Stored(b"0", 1)


def test_a_delay_is_spent_before_anything_is_done() -> None:
    store, delays = _store(FaultKind.DELAY, "write", 3.0)
    store.write("x", b"1")
    assert delays == [3.0]
    assert store.read("x") == Stored(b"1", 2)


def test_a_watch_that_fails() -> None:
    store, delays = _store(FaultKind.ERROR, "watch", delay_s=2.0)
    with pytest.raises(UnavailableError, match="cannot watch mem://faulty/x"):
        store.watch("x", 1, 60.0)
    assert delays == [2.0]


def test_a_stale_watch_does_not_see_the_last_write() -> None:
    store, _ = _store(FaultKind.STALE, "watch")
    store.write("x", b"1")
    assert store.watch("x", 1, 0.0) == 1
    assert store.watch("x", 2, 0.0) == 1
