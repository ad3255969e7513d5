"""status, stats, wait, publish -wait, and results as JSON and CSV."""

import csv
import io
import json
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from saxml.proto import admin_pb2, lm_pb2
from tests.unit.client.stubs import StubServer
from tests.unit.client.world import MODEL, World, wait_until
from tests.unit.saxutil.command_line import Result, command, saxutil

FAILED = (
    "0 of 1 replicas placed: load failed on 192.0.2.1:1: INVALID_ARGUMENT: override 'A': "
    "M has no such constant (next try in 10 s)"
)


@pytest.fixture
def server(world: World) -> StubServer:
    server = world.server()
    world.admin.add_model(
        MODEL,
        server.address,
        model_path="p.M",
        checkpoint_path="None",
        requested_num_replicas=1,
        method_names=["lm.generate", "lm.score"],
        overrides={"A": '"x"'},
    )
    world.admin.ready[MODEL] = 1
    world.admin.stats = admin_pb2.StatsResponse(
        model_server_type_stats=[
            admin_pb2.ModelServerTypeStat(
                chip_type=admin_pb2.ModelServer.CHIP_TYPE_CPU,
                chip_topology=admin_pb2.ModelServer.CHIP_TOPOLOGY_1,
                num_replicas=3,
            )
        ],
        num_servers_by_servable_model_path={"p.M": 3},
    )
    world.admin.states = "Active=2,Draining=1"
    return server


def as_json(world: World, *args: str) -> Any:
    result = saxutil("-format=json", *args, root=world.root)
    assert result.code == 0, result.err
    return json.loads(result.out)


def as_csv(world: World, *args: str) -> list[list[str]]:
    result = saxutil("-format=csv", *args, root=world.root)
    assert result.code == 0, result.err
    return list(csv.reader(io.StringIO(result.out)))


def test_status_of_a_cell(server: StubServer, world: World) -> None:
    world.admin.add_model("/sax/test/off", requested_num_replicas=2)
    world.admin.ready["/sax/test/off"] = 0
    world.admin.why["/sax/test/off"] = "0 of 2 replicas placed: no luck"
    result = saxutil("status", "/sax/test", root=world.root)
    assert (result.code, result.err) == (0, "")
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in result.out.splitlines()]
    assert ["CELL", "LEADER", "SERVERS"] in lines
    assert ["/sax/test", world.admin.address, "2 Active, 1 Draining"] in lines
    assert ["MODEL ID", "WANTED", "READY", "WHY NOT"] in lines
    assert ["lm", "1", "1", ""] in lines
    assert "0 of 2 replicas placed: no" in result.out
    assert as_json(world, "status", "/sax/test") == {
        "cell": "/sax/test",
        "leader": world.admin.address,
        "servers": {
            "total": 3,
            "by_state": {"Active": 2, "Draining": 1},
            "by_kind": [{"chip": "cpu", "topology": "1", "count": 3}],
        },
        "models": [
            {"model_id": MODEL, "wanted": 1, "assigned": 1, "ready": 1, "why": ""},
            {
                "model_id": "/sax/test/off",
                "wanted": 2,
                "assigned": 0,
                "ready": 0,
                "why": "0 of 2 replicas placed: no luck",
            },
        ],
    }


def test_status_asks_the_admin_server_no_more_often_for_more_models(
    server: StubServer, world: World
) -> None:
    for number in range(20):
        world.admin.add_model(f"/sax/test/m{number}", requested_num_replicas=1)
        world.admin.ready[f"/sax/test/m{number}"] = 0
    before = len(world.admin.requests)
    assert len(as_json(world, "status", "/sax/test")["models"]) == 21
    asked = [type(r).__name__ for r in world.admin.requests[before:]]
    assert asked == ["ListRequest", "StatsRequest"]


def test_status_tells_of_replicas_with_a_former_checkpoint(
    server: StubServer, world: World
) -> None:
    world.admin.current[MODEL] = 0
    (model,) = as_json(world, "status", "/sax/test")["models"]
    assert (model["ready"], model["why"]) == (1, "1 to be updated to None")


def test_status_of_an_admin_server_that_says_less(server: StubServer, world: World) -> None:
    world.admin.states = ""
    world.admin.ready.clear()
    status = as_json(world, "status", "/sax/test")
    assert status["servers"]["by_state"] is None
    assert status["models"][0]["ready"] is None
    assert "| ?" in saxutil("status", "/sax/test", root=world.root).out.replace("    ?", " ?")


def test_status_of_all_cells_names_those_that_fail(server: StubServer, world: World) -> None:
    assert saxutil("create", "/sax/empty", "/fs", root=world.root).code == 0
    result = saxutil("-format=json", "status", root=world.root)
    assert result.code == 1
    empty, test = json.loads(result.out)
    assert empty["cell"] == "/sax/empty"
    assert "no admin server has been started" in empty["error"]
    assert test["cell"] == "/sax/test"
    assert "/sax/empty: " in result.err


def test_stats(server: StubServer, world: World) -> None:
    result = saxutil("stats", "/sax/test", root=world.root)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "+------+----------+--------------+\n"
        "| CHIP | TOPOLOGY | # OF SERVERS |\n"
        "+------+----------+--------------+\n"
        "| cpu  |        1 |            3 |\n"
        "+------+----------+--------------+\n"
        "+------------+--------------+\n"
        "| MODEL PATH | # OF SERVERS |\n"
        "+------------+--------------+\n"
        "| p.M        |            3 |\n"
        "+------------+--------------+\n"
    )
    assert as_json(world, "stats", MODEL) == {
        "servers": [{"chip": "cpu", "topology": "1", "count": 3}],
        "model_paths": {"p.M": 3},
    }
    (request,) = [r for r in world.admin.requests if isinstance(r, admin_pb2.StatsRequest)][-1:]
    assert request.model_id == MODEL


def test_ls_in_other_formats(server: StubServer, world: World) -> None:
    assert as_json(world, "ls", "/sax") == [{"cell": "/sax/test"}]
    assert as_csv(world, "ls", "/sax") == [["#", "Cell"], ["0", "test"]]
    model = {
        "model_id": MODEL,
        "model_path": "p.M",
        "checkpoint_path": "None",
        "wanted": 1,
        "addresses": [server.address],
        "methods": ["lm.generate", "lm.score"],
        "overrides": {"A": '"x"'},
        "admin_acl": "",
        "acls": {},
    }
    assert as_json(world, "ls", "/sax/test") == [model]
    assert as_json(world, "ls", MODEL) == {**model, "why": ""}
    rows = as_csv(world, "ls", "-acls=false", MODEL)
    assert rows[1] == ["lm", "p.M", "None", "1", server.address, "lm.generate, lm.score"]


def test_acls_in_other_formats(server: StubServer, world: World) -> None:
    world.admin.models[MODEL].model.acls.items["lm.score"] = "acl/a"
    world.admin.models[MODEL].model.acls.items["lm.generate"] = "acl/b"
    acls = {"lm.generate": "acl/b", "lm.score": "acl/a"}
    assert as_json(world, "getacl", "/sax/test") == {"cell": "/sax/test", "admin_acl": "acl/all"}
    assert as_json(world, "getacl", MODEL, "all") == {
        "model_id": MODEL,
        "admin_acl": "",
        "acls": acls,
    }
    assert as_json(world, "getacl", MODEL, "lm.score")["acls"] == {"lm.score": "acl/a"}
    assert as_csv(world, "getacl", MODEL, "all")[1:] == [[m, a] for m, a in acls.items()]


def test_language_model_in_other_formats(server: StubServer, world: World) -> None:
    server.answers = [
        lm_pb2.DecodedText(text='a, "b"\nc', score=-0.25),
        lm_pb2.DecodedText(text="日本", score=float("nan")),
    ]
    server.scores = [-1.5, -2.25]
    assert as_json(world, "lm.generate", MODEL, "x") == [
        {"text": 'a, "b"\nc', "score": -0.25},
        {"text": "日本", "score": None},
    ]
    assert as_csv(world, "lm.generate", "-n=1", MODEL, "x") == [
        ["generate", "Score"],
        ['a, "b"\nc', "-0.25"],
    ]
    assert as_json(world, "lm.score", MODEL, "p", "s", "t") == [
        {"suffix": "s", "scores": [-1.5]},
        {"suffix": "t", "scores": [-2.25]},
    ]
    embedding = as_json(world, "lm.embed", MODEL, "x")
    assert embedding == {"text": "x", "embedding": [0.125, -0.000012345678, 3]}
    gradient = as_json(world, "lm.gradient", MODEL, "p", "s")
    assert (gradient["scores"], len(gradient["gradients"]["params.lm.w_x"])) == ([-2.5], 10)


@contextmanager
def after_looks(world: World, *steps: Callable[[], None]) -> Iterator[None]:
    """Takes a step whenever the admin server has been asked for models twice more."""

    def act() -> None:
        for step in steps:
            seen = world.admin.count(admin_pb2.ListRequest)
            wait_until(lambda: world.admin.count(admin_pb2.ListRequest) >= seen + 2, 60)  # noqa: B023
            step()

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def publish(world: World, *flags: str) -> Result:
    args = ["publish", "-wait", MODEL, "p.M", "None", "1"]
    return saxutil("-sax_timeout=60s", *flags, *args, root=world.root)


def test_publish_and_wait(world: World) -> None:
    world.admin.ready[MODEL] = 0
    world.admin.why[MODEL] = "0 of 1 replicas placed: no model server has joined this cell"

    def place() -> None:
        del world.admin.why[MODEL]

    def load() -> None:
        world.admin.ready[MODEL] = 1

    with after_looks(world, place, load):
        result = publish(world)
    assert (result.code, result.out) == (0, "")
    lines = result.err.splitlines()
    assert lines[0].endswith(
        "0 of 1 replicas ready; 0 of 1 replicas placed: no model server has joined this cell"
    )
    assert lines[-1] == f"{MODEL}: 1 of 1 replicas ready"
    assert len(lines) == len(set(lines)) == 3


def test_publish_and_wait_ends_with_the_reason_of_the_failure(world: World) -> None:
    world.admin.ready[MODEL] = 0
    world.admin.why[MODEL] = FAILED
    start = time.monotonic()
    result = publish(world)
    assert time.monotonic() - start < 30
    assert (result.code, result.out) == (1, "")
    assert "Error: Failed to load model, which stays published: rpc error: " in result.err
    assert "code = FailedPrecondition" in result.err
    assert "override 'A': M has no such constant" in result.err
    assert MODEL in world.admin.models


def test_wait(server: StubServer, world: World) -> None:
    assert saxutil("wait", MODEL, root=world.root).code == 0
    result = saxutil("-sax_timeout=3s", "wait", "-replicas=2", MODEL, root=world.root)
    assert (result.code, result.out) == (1, "")
    assert "code = DeadlineExceeded" in result.err
    assert "has 1 of 2 replicas ready after" in result.err
    result = saxutil("wait", "/sax/test/nope", root=world.root)
    assert "code = NotFound" in result.err
    world.admin.models[MODEL].model.requested_num_replicas = 0
    result = saxutil("wait", MODEL, root=world.root)
    assert result.code == 1
    assert "saxutil update -replicas=1" in result.err


def test_wait_is_for_the_checkpoint_that_is_published(server: StubServer, world: World) -> None:
    world.admin.current[MODEL] = 0
    assert saxutil("update_checkpoint", MODEL, "/new", root=world.root).code == 0
    result = saxutil("-sax_timeout=3s", "wait", MODEL, root=world.root)
    assert result.code == 1
    assert "has 1 (of the published checkpoint: 0) of 1 replicas ready" in result.err
    start, before = time.monotonic(), world.admin.count(admin_pb2.ListRequest)
    with after_looks(world, world.admin.current.clear):
        result = saxutil("-sax_timeout=60s", "wait", MODEL, root=world.root)
    assert result.code == 0
    assert result.err.splitlines() == [
        f"{MODEL}: 1 of 1 replicas ready; 0 with the published checkpoint",
        f"{MODEL}: 1 of 1 replicas ready",
    ]
    # It does not ask without a pause because one replica is ready.
    looks = world.admin.count(admin_pb2.ListRequest) - before
    assert looks <= 2 + (time.monotonic() - start) / 0.5


def test_wait_for_a_model_that_is_unpublished(server: StubServer, world: World) -> None:
    world.admin.ready[MODEL] = 0
    timer = threading.Timer(1, world.admin.remove_model, [MODEL])
    timer.start()
    result = saxutil("-sax_timeout=20s", "wait", MODEL, root=world.root)
    timer.join()
    assert result.code == 1
    assert "code = NotFound" in result.err


def test_progress_on_a_terminal_is_one_line_that_changes(server: StubServer, world: World) -> None:
    world.admin.ready[MODEL] = 0
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal device here ({error}); progress_test does without")
    process = subprocess.Popen(
        [*command(), f"-sax_root={world.root}", "wait", MODEL],
        stderr=theirs,
        stdout=subprocess.PIPE,
    )
    os.close(theirs)
    wait_until(lambda: world.admin.count(admin_pb2.ListRequest) >= 2, 60)
    world.admin.ready[MODEL] = 1
    assert process.wait(20) == 0
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal is gone with the process
            break
        if not part:
            break
        shown += part
    os.close(ours)
    text = shown.decode()
    assert text.count("\n") == 1
    assert text.startswith(f"\r\x1b[K{MODEL}: 0 of 1 replicas ready; 1 loading (")
    assert f"\r\x1b[K{MODEL}: 1 of 1 replicas ready (" in text
