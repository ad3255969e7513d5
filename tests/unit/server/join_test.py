"""A model server finds its admin server, follows it and does not give up."""

import concurrent.futures
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from saxml.common.clock import SystemClock
from saxml.common.names import CellId
from saxml.proto import admin_pb2, admin_pb2_grpc
from saxml.server.join import Joiner, next_retry
from saxml.storage.base import open_store
from saxml.storage.cell import CellStore

REQUEST = admin_pb2.JoinRequest(
    address="10.0.0.1:10001",
    model_server=admin_pb2.ModelServer(servable_model_paths=["p.Lm"]),
)


class Admin(admin_pb2_grpc.AdminServicer):
    """Answers Join, or refuses it for as long as `refusal` is set."""

    def __init__(self, port: int = 0) -> None:
        self.joins: list[admin_pb2.JoinRequest] = []
        self.refusal = ""
        self.hang = threading.Event()
        self.hang.set()
        self._changed = threading.Condition()
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        admin_pb2_grpc.add_AdminServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def Join(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._changed:
            self.joins.append(request)
            self._changed.notify_all()
        self.hang.wait()
        if self.refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.refusal)
        return admin_pb2.JoinResponse()

    def wait_for_joins(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.joins) >= count, 10)

    def stop(self) -> None:
        self.hang.set()
        self._server.stop(None).wait()


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> CellStore:
    files = CellStore(f"mem://{request.node.name}", CellId("test"))
    files.create()
    return files


@pytest.fixture
def admins() -> Iterator[list[Admin]]:
    started: list[Admin] = [Admin()]
    yield started
    for admin in started:
        admin.stop()


@pytest.fixture
def start(cell: CellStore) -> Iterator[Callable[..., Joiner]]:
    joiners: list[Joiner] = []

    def starter(heartbeat_s: float = 60.0) -> Joiner:
        clock = SystemClock()
        joiner = Joiner(cell, REQUEST, clock, heartbeat_s=heartbeat_s)
        joiners.append(joiner)
        joiner.start()
        return joiner

    yield starter
    for joiner in joiners:
        joiner.stop()


def _logged(caplog: pytest.LogCaptureFixture, text: str) -> Callable[[], bool]:
    return lambda: any(text in message for message in caplog.messages)


def _until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(1000):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it has not happened in time")


def test_it_joins_at_once_and_says_so(
    cell: CellStore,
    admins: list[Admin],
    start: Callable[..., Joiner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "saxml")
    cell.write_location(admins[0].address)
    start()
    admins[0].wait_for_joins(1)
    assert admins[0].joins == [REQUEST]
    _until(_logged(caplog, f"Joined {admins[0].address}"))


def test_it_shows_that_it_is_there_and_logs_that_once(
    cell: CellStore,
    admins: list[Admin],
    start: Callable[..., Joiner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "saxml")
    cell.write_location(admins[0].address)
    start(heartbeat_s=0.05)
    admins[0].wait_for_joins(4)
    assert sum(m.startswith("Joined ") for m in caplog.messages) == 1


def test_it_follows_the_location(
    cell: CellStore,
    admins: list[Admin],
    start: Callable[..., Joiner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "saxml")
    admins.append(Admin())
    cell.write_location(admins[0].address)
    start()
    admins[0].wait_for_joins(1)
    cell.write_location(admins[1].address)
    admins[1].wait_for_joins(1)
    _until(_logged(caplog, f"Joined {admins[1].address}"))
    assert len(admins[0].joins) == 1


def test_it_follows_the_location_while_the_old_admin_server_is_frozen(
    cell: CellStore,
    admins: list[Admin],
    start: Callable[..., Joiner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "saxml")
    admins.append(Admin())
    admins[0].hang.clear()
    cell.write_location(admins[0].address)
    start()
    admins[0].wait_for_joins(1)
    cell.write_location(admins[1].address)
    admins[1].wait_for_joins(1)
    _until(_logged(caplog, f"Joined {admins[1].address}"))
    assert any("has not answered, and another admin server leads" in m for m in caplog.messages)
    assert not any(f"Joined {admins[0].address}" in m for m in caplog.messages)


def test_it_waits_for_a_cell_and_says_for_what(
    cell: CellStore,
    admins: list[Admin],
    start: Callable[..., Joiner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "saxml")
    start()
    _until(_logged(caplog, "Waiting to join /sax/test: FAILED_PRECONDITION: no admin server has"))
    cell.write_location(admins[0].address)
    admins[0].wait_for_joins(1)
    assert sum("Waiting" in m for m in caplog.messages) == 1


def test_it_comes_back_to_an_admin_server_that_was_away(
    cell: CellStore,
    admins: list[Admin],
    start: Callable[..., Joiner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "saxml")
    cell.write_location(admins[0].address)
    start(heartbeat_s=0.05)
    _until(_logged(caplog, f"Joined {admins[0].address}"))
    admins[0].stop()
    _until(_logged(caplog, f"(admin server {admins[0].address}): UNAVAILABLE: "))
    admins.append(Admin(admins[0].port))
    admins[1].wait_for_joins(1)
    _until(lambda: sum(m.startswith("Joined ") for m in caplog.messages) == 2)


def test_a_refusal_is_logged_and_tried_again(
    cell: CellStore,
    admins: list[Admin],
    start: Callable[..., Joiner],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "saxml")
    admins[0].refusal = "JoinRequest.modelet missing"
    cell.write_location(admins[0].address)
    start()
    admins[0].wait_for_joins(2)
    _until(_logged(caplog, "INVALID_ARGUMENT: JoinRequest.modelet missing"))
    admins[0].refusal = ""
    _until(_logged(caplog, f"Joined {admins[0].address}"))


def test_a_broken_location_is_outlived(
    cell: CellStore, admins: list[Admin], start: Callable[..., Joiner]
) -> None:
    cell.write_location(admins[0].address)
    start(heartbeat_s=0.05)
    admins[0].wait_for_joins(1)
    store = open_store(cell.store.root)
    store.write("sax/test/location.proto", b"\xff\xff")
    before = len(admins[0].joins)
    cell.write_location(admins[0].address)
    admins[0].wait_for_joins(before + 2)


def test_it_stops_in_the_middle_of_a_join(
    cell: CellStore, admins: list[Admin], start: Callable[..., Joiner]
) -> None:
    admins[0].hang.clear()
    cell.write_location(admins[0].address)
    joiner = start()
    admins[0].wait_for_joins(1)
    joiner.stop()
    joiner.stop()


def test_pauses_grow_up_to_five_seconds() -> None:
    pauses = [0.0]
    for _ in range(8):
        pauses.append(next_retry(pauses[-1]))
    assert pauses[1] == 0.5
    assert pauses[2] == pytest.approx(0.8)
    assert pauses[-1] == 5.0
