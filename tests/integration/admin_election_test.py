"""Several admin servers of one cell as real processes: who leads, and what the others do."""

import contextlib
import json
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from saxml.common.names import TERM_METADATA, CellId
from saxml.proto import admin_pb2, admin_pb2_grpc
from saxml.storage.base import open_store
from saxml.storage.cell import CellStore
from tests.integration import gcs
from tests.integration.processes import Process
from tests.integration.stub_modelet import StubModelet

CONFIG, SERVER = "saxml.admin.admin_config", "saxml.admin.admin_server"
CELL = "--sax_cell=/sax/test"
LEASE = "sax/test/lease.json"


class Admin:
    """One admin server of the cell."""

    def __init__(self, root: str, *flags: str) -> None:
        self.process = Process(
            SERVER, CELL, f"--sax_root={root}", "--port=0", "--http_port=0", *flags
        )
        self._channel: grpc.Channel | None = None
        self.address = ""

    def wait_until_up(self) -> "Admin":
        port = self.process.wait_for(r"Starting the server on port (\d+)")[1]
        self.address = f"127.0.0.1:{port}"
        self._channel = grpc.insecure_channel(self.address)
        return self

    @property
    def stub(self) -> Any:
        assert self._channel is not None
        return admin_pb2_grpc.AdminStub(self._channel)

    def names(self) -> list[str]:
        """What it lists; grpc.RpcError if it does not lead."""
        listed = self.stub.List(admin_pb2.ListRequest(), timeout=5).published_models
        return sorted(p.model.model_id.rpartition("/")[2] for p in listed)

    def publish(self, name: str) -> None:
        model = admin_pb2.Model(
            model_id=f"/sax/test/{name}",
            model_path="p.Lm",
            checkpoint_path="None",
            requested_num_replicas=1,
        )
        self.stub.Publish(admin_pb2.PublishRequest(model=model), timeout=10)

    def error(self, call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error: Any = caught.value
        return error.code(), error.details()


class Cell:
    """Admin servers on one root; the first one leads."""

    def __init__(self, root: str, fs_root: str) -> None:
        self.root = root
        self.files = CellStore(root, CellId("test"))
        with Process(CONFIG, CELL, f"--sax_root={root}", f"--fs_root={fs_root}") as config:
            assert config.wait() == 0, config.output
        self.admins: list[Admin] = []

    def start(self, count: int, *flags: str) -> list[Admin]:
        for _ in range(count):
            self.admins.append(Admin(self.root, *flags))
            if len(self.admins) == 1:
                self.admins[0].wait_until_up()
        for admin in self.admins[1:]:
            admin.wait_until_up()
        return self.admins

    def close(self) -> None:
        for admin in self.admins:
            admin.process.kill()

    def leader(self, among: list[Admin], timeout_s: float) -> Admin:
        """Waits until one of them answers as the leader that location.proto names."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            address = self.files.admin_address()
            for admin in among:
                if admin.address == address:
                    with contextlib.suppress(grpc.RpcError):
                        admin.names()
                        return admin
            time.sleep(0.02)
        output = "\n--\n".join(a.process.output for a in among)
        raise AssertionError(f"nobody leads after {timeout_s} s:\n{output}")

    def lease(self) -> dict[str, Any]:
        stored = self.files.store.read(LEASE)
        assert stored is not None
        found: dict[str, Any] = json.loads(stored.data)
        return found


@pytest.fixture(params=["folder", "bucket"])
def cell(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Cell]:
    with contextlib.ExitStack() as stack:
        if request.param == "folder":
            made = Cell(str(tmp_path / "root"), str(tmp_path / "fs"))
        else:
            stack.enter_context(gcs.bucket("cells"))
            made = Cell("gs://cells/root", "gs://cells/fs")
        stack.callback(made.close)
        yield made


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[Cell]:
    with contextlib.closing(Cell(str(tmp_path / "root"), str(tmp_path / "fs"))) as made:
        yield made


def test_one_leads_and_the_others_say_so(cell: Cell) -> None:
    first, *others = cell.start(3)
    first.publish("lm")
    assert cell.files.admin_address() == first.address
    told = f"this admin server stands by; the leader of /sax/test is {first.address}"
    for other in others:
        other.process.wait_for(f"Standing by: {first.address} leads /sax/test, term 1$")
        for call in (other.names, lambda other=other: other.publish("x")):
            assert other.error(call) == (grpc.StatusCode.FAILED_PRECONDITION, told)
        assert len([line for line in other.process.log if "Standing by" in line]) == 1
    assert cell.lease() == {
        "holder": first.address,
        "server_id": cell.lease()["server_id"],
        "term": 1,
        "ttl_s": 10.0,
        "released": False,
    }


def test_a_killed_leader_is_followed_within_12_s(cell: Cell) -> None:
    first, *others = cell.start(3)
    first.publish("lm")
    first.process.kill()
    started = time.monotonic()
    leader = cell.leader(others, 30)
    assert time.monotonic() - started < 12
    assert leader.names() == ["lm"]
    assert cell.lease()["term"] == 2
    (other,) = (a for a in others if a is not leader)
    other.process.wait_for(f"Standing by: {leader.address} leads /sax/test, term 2$")


@pytest.mark.parametrize("end", [Process.terminate, Process.interrupt])
def test_a_leader_that_ends_hands_over_within_a_second(cell: Cell, end: Any) -> None:
    first, *others = cell.start(3)
    first.publish("lm")
    watch = first.stub.WatchLoc.future(admin_pb2.WatchLocRequest(model_id="/sax/test/lm"))
    started = time.monotonic()
    end(first.process)
    leader = cell.leader(others, 10)
    assert time.monotonic() - started < 1
    assert first.process.wait() == 0
    assert watch.exception(timeout=5).code() is grpc.StatusCode.UNAVAILABLE
    assert leader.names() == ["lm"]
    assert cell.lease()["term"] == 2


def test_a_leader_that_was_stopped_for_long_steps_down_and_writes_nothing(cell: Cell) -> None:
    first, second = cell.start(2, "--lease_ttl=1.5")
    first.publish("lm")
    first.process.send_signal(signal.SIGSTOP)
    assert cell.leader([second], 6) is second
    second.publish("later")
    store = cell.files.store
    fs = open_store(cell.root.replace("root", "fs"))
    before = [store.read("sax/test/location.proto"), fs.read("sax/test/state.proto")]
    # A call that reaches it while it sleeps is answered when it wakes up.
    late = first.stub.Publish.future(
        admin_pb2.PublishRequest(
            model=admin_pb2.Model(
                model_id="/sax/test/late", model_path="p.Lm", checkpoint_path="None"
            )
        ),
        timeout=20,
    )
    time.sleep(0.5)
    first.process.send_signal(signal.SIGCONT)
    first.process.wait_for(r"W Term 1 of /sax/test is over|\] Term 1 of /sax/test is over")
    first.process.wait_for(f"Standing by: {second.address} leads /sax/test, term 2")
    assert late.exception().code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    code, text = first.error(first.names)
    assert (code, text.rpartition(" ")[2]) == (grpc.StatusCode.FAILED_PRECONDITION, second.address)
    after = [store.read("sax/test/location.proto"), fs.read("sax/test/state.proto")]
    assert after == before
    assert second.names() == ["later", "lm"]
    # It leads again when its turn comes, and knows what was published meanwhile.
    second.process.terminate()
    assert cell.leader([first], 5) is first
    assert first.names() == ["later", "lm"]
    assert cell.lease()["term"] == 3


def test_a_watcher_hears_that_the_leader_steps_down(folder: Cell) -> None:
    first, second = folder.start(2, "--lease_ttl=1.5")
    first.publish("lm")
    request = admin_pb2.WatchLocRequest(model_id="/sax/test/lm")
    watch = first.stub.WatchLoc.future(request, timeout=60)
    time.sleep(0.2)
    assert not watch.done()
    # Somebody takes the lease by force: the next renewal finds out.
    stored = folder.files.store.read(LEASE)
    assert stored is not None
    forced = {**json.loads(stored.data), "holder": second.address, "server_id": "x", "term": 7}
    folder.files.store.write(LEASE, json.dumps(forced).encode())
    assert watch.exception(timeout=5).code() is grpc.StatusCode.UNAVAILABLE
    assert "does not lead /sax/test any more" in watch.exception().details()
    # Nobody renews that lease, so it expires; terms go on from it.
    folder.leader([first, second], 10)
    assert folder.lease()["term"] == 8


def test_orders_carry_the_term(folder: Cell) -> None:
    class Recorder(StubModelet):
        """Keeps the terms of the orders it was given."""

        def __init__(self) -> None:
            self.terms: list[tuple[str, str]] = []
            super().__init__()

        def _record(self, name: str, request: Any, context: Any) -> None:
            metadata = dict(context.invocation_metadata())
            if name != "GetStatus":
                self.terms.append((name, metadata.get(TERM_METADATA, "none")))
            super()._record(name, request, context)

    modelet = Recorder()
    first, second = folder.start(2)
    first.publish("lm")
    first.stub.Join(modelet.join_request(), timeout=10)
    modelet.wait_for(lambda: ("Load", "1") in modelet.terms)
    first.process.terminate()
    assert folder.leader([second], 5) is second
    second.stub.Join(modelet.join_request(), timeout=10)
    second.stub.Unpublish(admin_pb2.UnpublishRequest(model_id="/sax/test/lm"), timeout=10)
    modelet.wait_for(lambda: ("Unload", "2") in modelet.terms)
    assert {term for name, term in modelet.terms if name == "UpdateLoaded"} <= {"1", "2"}
    modelet.stop()


def test_a_lost_lease_file_costs_no_term(folder: Cell, tmp_path: pathlib.Path) -> None:
    first, second = folder.start(2, "--lease_ttl=1.5")
    first.process.terminate()
    folder.leader([second], 5)
    second.process.kill()
    (tmp_path / "root" / LEASE).unlink()
    (third,) = (Admin(folder.root).wait_until_up(),)
    folder.admins.append(third)
    folder.leader([third], 5)
    assert folder.lease()["term"] == 3


def test_a_lease_that_is_no_lease_is_told(folder: Cell, tmp_path: pathlib.Path) -> None:
    (tmp_path / "root" / LEASE).write_text("{}")
    admin = Admin(folder.root)
    folder.admins.append(admin)
    assert admin.process.wait() == 255
    admin.process.wait_for("lease.json is not a lease of a SAX cell .*Stop all admin servers")


def test_a_location_that_somebody_else_wrote_is_set_right(folder: Cell) -> None:
    (first,) = folder.start(1)
    folder.files.write_location("192.0.2.1:1")
    first.process.wait_for("location.proto named another admin server")
    assert folder.files.admin_address() == first.address
