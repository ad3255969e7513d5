"""A standby as a real process: its pages, health and metrics, and what it says without a store."""

import contextlib
import pathlib
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.integration import admin_cell, gcs
from tests.integration.processes import Process

_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Admin:
    """An admin server with an HTTP port."""

    def __init__(self, root: str) -> None:
        with socket.create_server(("localhost", 0)) as free:
            self.http_port = free.getsockname()[1]
        self.process = Process(
            "saxml.admin.admin_server",
            "--sax_cell=/sax/test",
            f"--sax_root={root}",
            "--port=0",
            f"--http_port={self.http_port}",
            "--lease_ttl=2",
        )
        port = self.process.wait_for(r"Starting the server on port (\d+)")[1]
        self.process.wait_for("Starting the HTTP server")
        self.address = f"127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        url = f"http://localhost:{self.http_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Values by name and labels."""
        code, text = self.get("/metrics")
        assert code == 200
        lines = (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
        return {name: float(value) for name, _, value in lines}

    def until_ready_says(self, code: int, pattern: str, timeout_s: float = 20.0) -> str:
        """Waits for an answer of /readyz."""
        end = time.monotonic() + timeout_s
        while True:
            found = self.get("/readyz")
            if found[0] == code and re.search(pattern, found[1]):
                return found[1]
            assert time.monotonic() < end, (found, self.process.output)
            time.sleep(0.05)


@contextlib.contextmanager
def _two(root: str) -> Iterator[tuple[Admin, Admin]]:
    """One that leads, and one that stands by."""
    with contextlib.ExitStack() as stack:
        admins = []
        for _ in range(2):
            admins.append(Admin(root))
            stack.callback(admins[-1].process.kill)
            admins[0].until_ready_says(200, "^leading, term 1$")
        yield admins[0], admins[1]


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    admin_cell.create_cell(str(tmp_path / "root"), str(tmp_path / "fs"))
    return str(tmp_path / "root")


def test_a_standby_has_pages_health_and_metrics(root: str) -> None:
    with _two(root) as (leader, standby):
        said = standby.until_ready_says(200, "^standing by")
        assert said == f"standing by, term 1; the leader is {leader.address}\n"
        assert standby.get("/healthz") == (200, "ok\n")
        code, page = standby.get("/")
        assert (code, "are known to the leader" in page) == (200, True)
        assert f"the leader of /sax/test is <b>{leader.address}</b>, term 1" in page
        told = f"this admin server stands by; the leader of /sax/test is {leader.address}\n"
        assert standby.get("/model/sax/test/lm") == (503, told)
        assert standby.get("/server/10.0.0.1:10001") == (503, told)
        assert standby.get("/nowhere")[0] == 404
        values = standby.metrics()
        assert (values["sax_admin_is_leader"], values["sax_admin_term"]) == (0, 1)
        assert values["sax_admin_lease_age_seconds"] < 2
        assert values['sax_admin_lease_renewals_total{result="ok"}'] == 0
        assert not any(
            name.startswith(("sax_admin_servers", "sax_admin_models")) for name in values
        )
        leading = leader.metrics()
        assert (leading["sax_admin_is_leader"], leading["sax_admin_term"]) == (1, 1)
        assert leading["sax_admin_models"] == 0
        assert [m for m in values if m.startswith("sax_rpcs_total")] == []
        _assert_that_tools_find_it(standby)
        leader.process.terminate()
        assert leader.process.wait() == 0
        standby.until_ready_says(200, "^leading, term 2$")
        assert standby.metrics()["sax_admin_is_leader"] == 1
        standby.process.wait_for("Loaded manager state")
        assert "<h2>Models</h2>" in standby.get("/")[1]


def _assert_that_tools_find_it(standby: Admin) -> None:
    with grpc.insecure_channel(standby.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "sax.Admin"):
            request = health_pb2.HealthCheckRequest(service=name)
            assert health.Check(request, timeout=10).status == _NOT_SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection.ServerReflectionInfo(iter([question]), timeout=10)
        assert "sax.Admin" in {s.name for s in answer.list_services_response.service}


def test_without_its_folder_nobody_is_ready_and_everybody_is_alive(
    root: str, tmp_path: pathlib.Path
) -> None:
    with _two(root) as (leader, standby):
        (tmp_path / "root").rename(tmp_path / "away")
        for admin in (leader, standby):
            admin.until_ready_says(503, "^cut off: cannot write .*lease.json: No such file")
            assert admin.get("/healthz") == (200, "ok\n")
            values = admin.metrics()
            assert values["sax_admin_is_leader"] == 0
        assert leader.metrics()['sax_admin_lease_renewals_total{result="failed"}'] >= 1
        assert "Cannot write the lease of /sax/test" in standby.process.output
        (tmp_path / "away").rename(tmp_path / "root")
        end = time.monotonic() + 20
        while sorted(a.get("/readyz")[0] for a in (leader, standby)) != [200, 200]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert sum(a.metrics()["sax_admin_is_leader"] for a in (leader, standby)) == 1


def test_without_its_bucket_a_standby_is_cut_off() -> None:
    with contextlib.ExitStack() as outer:
        with gcs.bucket("cells"):
            admin_cell.create_cell("gs://cells/root", "gs://cells/fs")
            leader, standby = outer.enter_context(_two("gs://cells/root"))
            standby.until_ready_says(200, "^standing by")
        for admin in (leader, standby):
            admin.until_ready_says(
                503, r"^cut off: the lease was last read \d+ s ago, longer than 3 s"
            )
            assert admin.get("/healthz") == (200, "ok\n")
        values = standby.metrics()
        assert values["sax_admin_lease_age_seconds"] > 3
        assert values["sax_admin_is_leader"] == 0
