"""saxutil on a bucket, served by fake-gcs-server, and on a folder: the same answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from saxml.common.names import parse_cell
from saxml.storage.base import open_store
from saxml.storage.cell import CellStore
from saxml.storage.lease_record import Record
from tests.integration import gcs
from tests.unit.client.stubs import StubAdmin, StubServer
from tests.unit.client.world import MODEL
from tests.unit.saxutil.command_line import Result, saxutil


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with gcs.bucket("cells"):
        yield "gs://cells/sax-root"


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path)
    else:
        yield f"{bucket}/{tmp_path.name.replace('[', '-').replace(']', '')}"


def run(root: str, *args: str, stdin: str = "") -> Result:
    return saxutil(f"-sax_root={root}", "-sax_timeout=20s", *args, stdin=stdin)


def test_life_of_a_cell(root: str) -> None:
    assert run(root, "create", "/sax/one", f"{root}/fs") == Result(0, "", "")
    assert run(root, "create", "/sax/one-two", f"{root}/fs") == Result(0, "", "")
    again = run(root, "create", "/sax/one", f"{root}/fs")
    assert again.code == 1
    assert "code = AlreadyExists" in again.err
    assert run(root, "ls", "-csv", "/sax").out == "# #,Cell\n0,one\n1,one-two\n"
    assert run(root, "getacl", "/sax/one").out == "acl/all\n"
    assert run(root, "setacl", "/sax/one", "acl/all").code == 0
    assert "no admin server has been started" in run(root, "status", "/sax/one").err

    kept = run(root, "delete", "/sax/one", stdin="n\n")
    assert (kept.code, kept.err) == (0, "")
    assert kept.out.startswith("Delete /sax/one below ")
    assert kept.out.endswith("? [y/N] Not deleted.\n")
    assert run(root, "delete", "/sax/one", stdin="y\n").code == 0
    assert run(root, "ls", "-csv", "/sax").out == "# #,Cell\n0,one-two\n"
    assert run(root, "delete", "-y", "/sax/one-two") == Result(0, "", "")
    gone = run(root, "delete", "-y", "/sax/one-two")
    assert gone.code == 1
    assert "code = NotFound desc = there is no cell /sax/one-two" in gone.err
    assert open_store(root).list("sax") == []


def test_a_cell_that_is_led_is_deleted_by_force_alone(root: str) -> None:
    assert run(root, "create", "/sax/test", f"{root}/fs").code == 0
    files = CellStore(root, parse_cell("/sax/test"))

    def lead() -> None:
        files.store.write(files.lease_name, Record("10.0.0.1:1", "one", 3, 20.0).to_bytes())

    lead()
    renewal = threading.Timer(2.0, lead)
    renewal.start()
    refused = run(root, "delete", "-y", "/sax/test")
    renewal.join()
    assert (refused.code, refused.out) == (1, "")
    assert "waiting up to 20 s to see whether the admin server at 10.0.0.1:1 lives" in refused.err
    assert "desc = the admin server at 10.0.0.1:1 leads /sax/test (term 3); stop" in refused.err
    assert run(root, "ls", "-csv", "/sax").out == "# #,Cell\n0,test\n"
    assert run(root, "delete", "-y", "-force", "/sax/test") == Result(0, "", "")
    assert open_store(root).list("sax") == []


def test_models_of_a_cell(root: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = StubServer().start()
        stack.callback(server.stop)
        admin = StubAdmin().start(root)
        stack.callback(admin.stop)
        assert run(root, "publish", "-wait", MODEL, "p.M", "None", "1").code == 0
        admin.change(MODEL, "+", server.address)
        assert run(root, "lm.generate", "-terse", MODEL, "hi") == Result(0, "one\n", "")
        status = json.loads(run(root, "-format=json", "status").out)
        assert [m["model_id"] for m in status[0]["models"]] == [MODEL]
        assert run(root, "stats", "/sax/test").code == 0
        assert run(root, "wait", MODEL).code == 0
        assert run(root, "update", "-replicas=0", MODEL).code == 0
        assert run(root, "unpublish", MODEL).code == 0


def test_missing_bucket_says_what_to_do(bucket: str) -> None:
    result = run("gs://nosuch/root", "ls", "/sax")
    assert result.code == 1
    assert "cannot list gs://nosuch/root/sax: there is no such bucket" in result.err
