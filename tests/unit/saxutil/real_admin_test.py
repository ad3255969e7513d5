"""saxutil and the client against the real admin server; model servers are stubs that join."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import sax
from saxml.admin.manager import Periods
from saxml.admin.server import AdminServer
from saxml.client.admin_link import AdminLink
from saxml.client.cells import create_cell
from saxml.client.driver import ThreadDriver, run
from saxml.client.rpc import Procedure
from saxml.common.clock import SystemClock
from saxml.common.errors import CancelledError, NotFoundError
from saxml.common.names import parse_cell
from saxml.proto import admin_pb2
from tests.unit.client.stubs import StubServer
from tests.unit.client.world import MODEL, wait_until
from tests.unit.saxutil.command_line import Result, command, saxutil

CELL = parse_cell("/sax/test")
PATH = "saxml.server.pax.lm.params.gptj.GPTJ"
JOIN = Procedure("/sax.Admin/Join", admin_pb2.JoinRequest, admin_pb2.JoinResponse)
FAST = Periods(refresh=0.2, poll=0.2, poll_timeout=2, prune=5, dial=5, join_status=5, rejoin=0.2)


class RealCell:
    """An admin server on a folder, in an event loop of its own thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        create_cell(str(root), CELL, f"{root}/fs")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    def start(self) -> None:
        self._server = AdminServer(str(self.root), CELL, 0, periods=FAST)
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(30)
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve(), self._loop)

    def stop(self) -> None:
        self._serving.cancel()
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(30)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def join(self, server: StubServer, *paths: str) -> None:
        request = admin_pb2.JoinRequest(
            address=server.address,
            model_server=admin_pb2.ModelServer(
                chip_type=admin_pb2.ModelServer.CHIP_TYPE_CPU,
                chip_topology=admin_pb2.ModelServer.CHIP_TOPOLOGY_1,
                servable_model_paths=paths,
            ),
        )
        link = AdminLink(str(self.root), CELL, ThreadDriver(SystemClock()))
        run(link.call(JOIN, request, 10))
        link.close()


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCell]:
    monkeypatch.setenv("SAX_DEBUG_IPADDR", "1")
    monkeypatch.setenv("SAX_ROOT", str(tmp_path))
    made = RealCell(tmp_path)
    yield made
    made.close()


@pytest.fixture
def servers() -> Iterator[list[StubServer]]:
    with ExitStack() as stack:
        made = []
        for name in ("one", "two"):
            made.append(StubServer(name).start())
            stack.callback(made[-1].stop)
        yield made


def test_life_of_a_model(cell: RealCell, servers: list[StubServer]) -> None:
    def run(*args: str) -> Result:
        return saxutil("-sax_timeout=20s", *args, root=cell.root)

    assert run("publish", MODEL, PATH, "None", "1", "BATCH_SIZE=[2]") == Result(0, "", "")
    waiting = run("ls", MODEL)
    assert waiting.code == 0
    assert "no model server has joined this cell" in waiting.err

    cell.join(servers[0], "some.other.Model")
    assert f"offers {PATH}; they offer some.other.Model" in run("ls", MODEL).err

    cell.join(servers[1], PATH)
    with sax.Admin("/sax/test") as admin:
        admin.WaitForReady(MODEL, 1)
        assert admin.ListDetail(MODEL).overrides == {"BATCH_SIZE": "[2]"}
        assert sum(stat.num_replicas for stat in admin.Stats()) == 2
    assert run("wait", MODEL) == Result(0, "", f"{MODEL}: 1 of 1 replicas ready\n")
    status = json.loads(run("-format=json", "status", "/sax/test").out)
    assert status["servers"]["by_state"] == {"Active": 2}
    assert status["models"] == [
        {"model_id": MODEL, "wanted": 1, "assigned": 1, "ready": 1, "why": ""}
    ]
    result = run("ls", "-csv", "-acls=false", MODEL)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[1].startswith(f"lm,{PATH},None,1,{servers[1].address}")
    assert run("ls", "-csv", "/sax/test").out == "# #,Model ID\n0,lm\n"
    assert run("lm.generate", "-terse", MODEL, "hi") == Result(0, "two\n", "")

    assert run("update_checkpoint", MODEL, "gs://b/ckpt_1").code == 0
    assert run("update", "-replicas=0", MODEL).code == 0
    with sax.Admin("/sax/test") as admin:
        assert admin.List(MODEL) == (PATH, "gs://b/ckpt_1", 0)
        assert admin.ListDetail(MODEL).overrides == {"BATCH_SIZE": "[2]"}

    assert run("unpublish", MODEL) == Result(0, "", "")
    again = run("publish", MODEL, PATH, "None", "1")
    assert again.code == 0, "a name that is being unpublished is waited for"
    assert run("unpublish", MODEL).code == 0
    assert "code = NotFound" in run("ls", MODEL).err


def test_watch(cell: RealCell, servers: list[StubServer]) -> None:
    assert saxutil("publish", MODEL, PATH, "None", "2", root=cell.root).code == 0
    process = subprocess.Popen(
        [*command(), f"-sax_root={cell.root}", "watch", MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    for server in servers:
        cell.join(server, PATH)
        assert process.stdout.readline() == f"+ {server.address}\n"
    assert saxutil("unpublish", MODEL, root=cell.root).code == 0
    assert process.wait(20) == 1
    assert "code = NotFound" in process.stderr.read()


def test_acls(cell: RealCell) -> None:
    def run(*args: str) -> Result:
        return saxutil(*args, root=cell.root)

    assert run("publish", MODEL, PATH, "None", "1").code == 0
    assert run("getacl", "/sax/test").out == "acl/all\n"
    assert run("getacl", MODEL).out == "No admin ACLs set for model.\n"
    refused = run("setacl", MODEL, "lm.score", "acl/group")
    assert refused.code == 1
    assert "ACL check is not supported" in refused.err
    refused = run("setacl", MODEL, "lm.score", "group")
    assert "group is not a valid ACL name" in refused.err
    assert run("setacl", MODEL, "lm.score", "").code == 0
    assert run("getacl", MODEL, "lm.score").out.startswith("No ACLs set")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([MODEL, "a/b", "None", "1"], "model path"),
        ([MODEL, PATH, "a b", "1"], "checkpoint path"),
        ([MODEL, PATH, "None", "-1"], "number of replicas -1 must be non-negative"),
    ],
)
def test_refused_publishes(cell: RealCell, args: list[str], text: str) -> None:
    result = saxutil("publish", *args, root=cell.root)
    assert (result.code, result.out) == (1, "")
    assert "code = InvalidArgument" in result.err
    assert text in result.err


def test_client_follows_an_admin_server_that_restarts(
    cell: RealCell, servers: list[StubServer]
) -> None:
    sax.Publish(MODEL, PATH, "None", 1)
    cell.join(servers[0], PATH)
    with sax.Model(MODEL) as model:
        lm = model.LM()
        assert lm.Generate("hi")[0][0] == "one"
        cell.stop()
        assert lm.Generate("hi")[0][0] == "one"  # serving does not need the admin server
        cell.start()
        assert sax.ListAll("/sax/test") == [MODEL]
        # The first server is gone for this admin server, the second one takes over.
        cell.join(servers[1], PATH)
        wait_until(lambda: lm.Generate("hi")[0][0] == "two", 20)
        sax.Unpublish(MODEL)

        def gone() -> bool:
            try:
                lm.Generate("hi")
            except NotFoundError:
                return True
            return False

        wait_until(gone, 20)


def test_wait_for_ready_ends_when_the_model_is_unpublished(cell: RealCell) -> None:
    sax.Publish(MODEL, PATH, "None", 1)
    with sax.Admin("/sax/test") as admin:
        timer = threading.Timer(0.5, sax.Unpublish, [MODEL])
        timer.start()
        with pytest.raises(CancelledError):
            admin.WaitForReady(MODEL, 1)
        timer.join()
