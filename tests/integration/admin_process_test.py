"""The launchers as real processes: what they log, what they keep, how they end."""

import pathlib
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from saxml.common.names import CellId
from saxml.proto import admin_pb2, admin_pb2_grpc
from saxml.storage.cell import CellStore
from tests.integration import gcs
from tests.integration.processes import Process

CONFIG, SERVER = "saxml.admin.admin_config", "saxml.admin.admin_server"
CELL = "--sax_cell=/sax/test"


@pytest.fixture(params=["folder", "bucket"])
def roots(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """sax_root and fs_root of a cell that does not exist yet."""
    if request.param == "folder":
        yield str(tmp_path / "sax-root"), str(tmp_path / "sax-fs-root")
    else:
        with gcs.bucket("cells"):
            yield "gs://cells/sax-root", "gs://cells/sax-fs-root"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """sax_root of a cell in a folder."""
    folder = str(tmp_path / "sax-root")
    with Process(CONFIG, CELL, f"--sax_root={folder}", f"--fs_root={tmp_path / 'fs'}") as config:
        assert config.wait() == 0, config.output
    return folder


def _serve(root: str, *flags: str, **env: str) -> Process:
    return Process(SERVER, CELL, f"--sax_root={root}", "--port=0", *flags, env=env)


def _port(server: Process) -> int:
    return int(server.wait_for(r"Starting the server on port (\d+)")[1])


def _stub(server: Process) -> Any:
    return admin_pb2_grpc.AdminStub(grpc.insecure_channel(f"127.0.0.1:{_port(server)}"))


def _model(name: str, **overrides: str) -> admin_pb2.Model:
    return admin_pb2.Model(
        model_id=f"/sax/test/{name}",
        model_path="p.Lm",
        checkpoint_path="None",
        requested_num_replicas=1,
        overrides=overrides,
    )


def test_the_log_tells_the_story_that_users_know(roots: tuple[str, str]) -> None:
    root, fs_root = roots
    shown = root.replace("gs://", "/gcs/")
    flags = (CELL, f"--sax_root={root}", f"--fs_root={fs_root}")
    with Process(CONFIG, *flags) as config:
        assert config.wait() == 0, config.output
    config_text = f'fs_root: "{fs_root}"'
    assert config.log == [f"I Creating config {config_text}", f"I Created config {config_text}"]
    with _serve(root, "--http_port=8080") as server:
        port = _port(server)
        server.wait_for("HTTP server on port|No status page on port")
        log = server.log
    assert log[:-1] == [
        "I Starting the server",
        f"I Loaded config: {config_text}",
        "I Leading /sax/test, term 1",
        f'I SetAddr {shown}/sax/test/location.proto "127.0.0.1:{port}"',
        f"I Updated config: {config_text}",
        "I Loaded manager state",
        "I Refreshing manager state every 10s",
        f"I Starting the server on port {port}",
    ]
    assert CellStore(root, CellId("test")).admin_address() == f"127.0.0.1:{port}"


def test_the_addresses_of_the_machine_are_logged(root: str) -> None:
    with _serve(root, "--http_port=0", SAX_DEBUG_IPADDR="0") as server:
        _port(server)
        log = server.log
    assert log[0] == "I Starting the server"
    assert "I Skipping non-global IP address 127.0.0.1/8." in log
    address = CellStore(root, CellId("test")).admin_address()
    host = address.rpartition(":")[0].strip("[]")
    assert f"I IPNet address {host}" in log or host == "127.0.0.1"


def test_what_was_acknowledged_survives_a_kill(roots: tuple[str, str]) -> None:
    root, fs_root = roots
    with Process(CONFIG, CELL, f"--sax_root={root}", f"--fs_root={fs_root}") as config:
        assert config.wait() == 0, config.output
    names = []
    with _serve(root, "--http_port=0") as server:
        stub = _stub(server)
        stub.Publish(admin_pb2.PublishRequest(model=_model("gone")), timeout=30)
        stub.Unpublish(admin_pb2.UnpublishRequest(model_id="/sax/test/gone"), timeout=30)
        for i in range(3):
            stub.Publish(admin_pb2.PublishRequest(model=_model(f"m{i}", K=str(i))), timeout=30)
            names.append(f"/sax/test/m{i}")
        changed = _model("m0")
        changed.checkpoint_path = "/new"
        stub.Update(admin_pb2.UpdateRequest(model=changed), timeout=30)
        port = _port(server)
        server.kill()  # at once: nothing may be waiting to be written
    # At the same address it need not wait until the lease of the former process has expired.
    flags = (CELL, f"--sax_root={root}", f"--port={port}", "--http_port=0")
    with Process(SERVER, *flags) as server:
        listed = _stub(server).List(admin_pb2.ListRequest(), timeout=30).published_models
        assert [p.model.model_id for p in listed] == names
        assert [dict(p.model.overrides) for p in listed] == [{"K": "0"}, {"K": "1"}, {"K": "2"}]
        assert listed[0].model.checkpoint_path == "/new"


@pytest.mark.parametrize("end", [Process.terminate, Process.interrupt])
def test_it_ends_at_once_when_told(root: str, end: Any) -> None:
    with _serve(root, "--http_port=0") as server:
        stub = _stub(server)
        stub.Publish(admin_pb2.PublishRequest(model=_model("lm")), timeout=10)
        # Somebody who waits is no reason to stay.
        watch = stub.WatchLoc.future(admin_pb2.WatchLocRequest(model_id="/sax/test/lm"))
        before = len(server.log)
        started = time.monotonic()
        end(server)
        assert server.wait() == 0
        assert time.monotonic() - started < 2.0
        assert [line for line in server.log[before:] if line[0] != "I"] == []
        assert watch.exception() is not None


def test_a_crowd_of_clients_that_comes_at_once_is_served(root: str) -> None:
    with _serve(root, "--http_port=0") as server:
        stub = _stub(server)
        stub.Publish(admin_pb2.PublishRequest(model=_model("lm")), timeout=10)
        request = admin_pb2.WatchLocRequest(model_id="/sax/test/lm")
        watches = [stub.WatchLoc.future(request, timeout=60) for _ in range(2500)]
        stub.List(admin_pb2.ListRequest(), timeout=60)
        stub.Unpublish(admin_pb2.UnpublishRequest(model_id="/sax/test/lm"), timeout=60)
        # Those that are taken up after that are told so; nobody is turned away.
        answers = [watch.exception() or watch.result() for watch in watches]
        late = [a.code() for a in answers if isinstance(a, grpc.RpcError)]
        assert set(late) <= {grpc.StatusCode.NOT_FOUND}
        told = [a for a in answers if not isinstance(a, grpc.RpcError)]
        assert all(a.result.has_fullset for a in told)


def test_tools_can_ask_what_it_offers(root: str) -> None:
    with (
        _serve(root, "--http_port=0") as server,
        grpc.insecure_channel(f"127.0.0.1:{_port(server)}") as channel,
    ):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    names = {s.name for s in answer.list_services_response.service}
    assert names == {
        "sax.Admin",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_the_leader_is_serving(root: str) -> None:
    with (
        _serve(root, "--http_port=0") as server,
        grpc.insecure_channel(f"127.0.0.1:{_port(server)}") as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "sax.Admin"):
            request = health_pb2.HealthCheckRequest(service=name)
            serving = health_pb2.HealthCheckResponse.SERVING
            # Serving begins when it leads, which is a moment after the port is open.
            for answer in stub.Watch(request, timeout=30):
                if answer.status == serving:
                    break
            assert stub.Check(request, timeout=10).status == serving


def _assert_fatal(process: Process, text: str, code: int = 255) -> None:
    with process:
        assert process.wait() == code, process.output
    fatal = [line for line in process.log if line.startswith("F ")]
    assert len(fatal) == 1, process.output
    assert re.fullmatch("F " + text, fatal[0]), fatal[0]
    assert "Traceback" not in process.output


def test_a_port_in_use_is_told(root: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        server = Process(SERVER, CELL, f"--sax_root={root}", f"--port={port}", "--http_port=0")
        _assert_fatal(
            server,
            f"Failed to start server: net.Listen on port {port} error: listen tcp :{port}: bind: "
            "address already in use; pass another --port or end the program that has it",
        )


def test_two_admin_servers_do_not_share_a_port(root: str) -> None:
    with _serve(root, "--http_port=0") as first:
        flags = (CELL, f"--sax_root={root}", f"--port={_port(first)}", "--http_port=0")
        _assert_fatal(Process(SERVER, *flags), ".*address already in use.*")


def test_a_taken_http_port_is_no_reason_to_fail(root: str) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        with _serve(root, f"--http_port={port}") as server:
            server.wait_for(f"W.*No status page on port {port}: Address already in use; pass")
            assert not _stub(server).List(admin_pb2.ListRequest(), timeout=10).published_models


def test_the_status_page_is_served(root: str) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with _serve(root, f"--http_port={port}") as server:
        server.wait_for(f"Starting the HTTP server on port {port}")
        with urllib.request.urlopen(f"http://localhost:{port}/", timeout=10) as page:
            assert b"/sax/test Cell Status" in page.read()
        _stub(server).List(admin_pb2.ListRequest(), timeout=10)
        with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=10) as metrics:
            text = metrics.read().decode()
        assert 'sax_rpcs_total{code="OK",method="sax.Admin/List"} 1.0' in text
        assert "sax_admin_is_leader 1.0" in text
        with urllib.request.urlopen(f"http://localhost:{port}/readyz", timeout=10) as ready:
            assert ready.read().startswith(b"leading")


@pytest.mark.parametrize("module", [CONFIG, SERVER])
def test_missing_flags_are_told(module: str) -> None:
    name = module.rpartition(".")[2]
    _assert_fatal(Process(module, "--sax_root=/tmp"), f"Usage: {name} --sax_cell=/sax/<cell> .*")


@pytest.mark.parametrize("module", [CONFIG, SERVER])
def test_a_bad_cell_is_told(module: str) -> None:
    _assert_fatal(
        Process(module, "--sax_cell=/bad", "--sax_root=/tmp", *_fs_root(module)),
        'Invalid sax_cell flag /bad: cell full name "/bad" should have the form /sax/<cell name>',
    )


@pytest.mark.parametrize("module", [CONFIG, SERVER])
def test_a_missing_root_is_told(module: str) -> None:
    process = Process(module, CELL, *_fs_root(module), env={"SAX_ROOT": ""})
    _assert_fatal(process, "Failed to .*: no root for SAX cells: pass --sax_root or set SAX_ROOT.*")


@pytest.mark.parametrize("module", [CONFIG, SERVER])
def test_unknown_flags_are_told(module: str) -> None:
    with Process(module, "--no_such_flag") as process:
        assert process.wait() == 1
    assert "Unknown command line flag 'no_such_flag'" in process.output


def _fs_root(module: str) -> list[str]:
    return ["--fs_root=/tmp/fs"] if module == CONFIG else []


def test_an_unknown_cell_is_told(root: str) -> None:
    _assert_fatal(
        Process(SERVER, "--sax_cell=/sax/nope", f"--sax_root={root}", "--port=0"),
        rf'Failed to start server: config.Load error: "{root}/sax/nope" is not a directory: there '
        r"is no cell /sax/nope; create it with admin_config --sax_cell=/sax/nope .*",
    )


def test_a_root_that_cannot_be_written_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    flags = (CELL, f"--sax_root={tmp_path}/file/root", f"--fs_root={tmp_path}/fs")
    _assert_fatal(
        Process(CONFIG, *flags),
        f"Failed to create config: cannot create folder {tmp_path}/file/root/sax/test: "
        "Not a directory",
    )


def test_an_fs_root_that_cannot_be_written_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    flags = (CELL, f"--sax_root={tmp_path}/root", f"--fs_root={tmp_path}/file/fs")
    with Process(CONFIG, *flags) as config:
        assert config.wait() == 0
    _assert_fatal(
        _serve(f"{tmp_path}/root", "--http_port=0"),
        f"Failed to start server: cannot create folder {tmp_path}/file/fs/sax/test: "
        "Not a directory",
    )


def test_a_folder_without_permission_is_told(root: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "fs/sax/test").mkdir(parents=True)
    (tmp_path / "fs/sax/test").chmod(0o555)
    flags = (CELL, f"--sax_root={root}", "--port=0", "--http_port=0")
    server = Process(SERVER, *flags, obeys_permissions=True)
    _assert_fatal(server, "Failed to start server: cannot write .*: permission denied for .*")


def test_a_state_that_cannot_be_read_is_left_alone(root: str, tmp_path: pathlib.Path) -> None:
    state = tmp_path / "fs/sax/test/state.proto"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"\xff\xffgarbage")
    _assert_fatal(
        _serve(root, "--http_port=0"),
        rf"Failed to start server: {state} \(9 bytes\) is not a state of a SAX cell: .*"
        r"Restore it from a backup, or move it away to start with nothing published",
    )
    assert state.read_bytes() == b"\xff\xffgarbage"


def test_a_bad_fs_root_is_told(tmp_path: pathlib.Path) -> None:
    flags = (CELL, f"--sax_root={tmp_path}", "--fs_root=/my folder")
    _assert_fatal(Process(CONFIG, *flags), 'Failed to create config: fs_root "/my folder" must .*')


def test_changing_the_fs_root_warns(root: str) -> None:
    with Process(CONFIG, CELL, f"--sax_root={root}", "--fs_root=/elsewhere") as config:
        assert config.wait() == 0
    (warning,) = [line for line in config.log if line.startswith("W ")]
    assert warning.endswith('what is published there does not move to "/elsewhere"')


def test_a_store_that_is_away_is_waited_for(tmp_path: pathlib.Path) -> None:
    with gcs.bucket("cells") as url:
        flags = ("--sax_root=gs://cells/root", "--fs_root=gs://cells/fs")
        with Process(CONFIG, CELL, *flags) as config:
            assert config.wait() == 0, config.output
    with _serve("gs://cells/root", "--http_port=0", STORAGE_EMULATOR_HOST=url) as server:
        server.wait_for(r"W.*Retrying to read gs://cells/root/sax/test/METADATA")
        server.terminate()
        assert server.wait() == 0
