"""saxutil's commands for cells and published models, as a process against stub servers."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from saxml.proto import admin_pb2
from tests.unit.client.stubs import StubServer
from tests.unit.client.world import MODEL, World, wait_until
from tests.unit.saxutil.command_line import Result, command, saxutil


def test_ls_cells(world: World) -> None:
    (world.root / "sax" / "stray").write_text("")
    result = saxutil("ls", "/sax", root=world.root)
    assert result.out == ("+---+------+\n| # | CELL |\n+---+------+\n| 0 | test |\n+---+------+\n")
    assert saxutil("ls", "-csv", "/sax", root=world.root).out == "# #,Cell\n0,test\n"


def test_ls_models(server: StubServer, world: World) -> None:
    world.admin.add_model("/sax/test/a")
    result = saxutil("ls", "/sax/test", root=world.root)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "+---+----------+\n"
        "| # | MODEL ID |\n"
        "+---+----------+\n"
        "| 0 | a        |\n"
        "| 1 | lm       |\n"
        "+---+----------+\n"
    )
    assert saxutil("ls", "-details", "-csv", "/sax/test", root=world.root).out == (
        "# #,Model ID,Methods\n0,a,\n1,lm,lm.generate, lm.score\n"
    )


def test_ls_empty_cell(world: World) -> None:
    assert saxutil("ls", "/sax/test", root=world.root).out == (
        "+---+----------+\n| # | MODEL ID |\n+---+----------+\n+---+----------+\n"
    )


def test_ls_model(server: StubServer, world: World) -> None:
    world.admin.models[MODEL].model.acls.items["lm.score"] = "acl/all"
    result = saxutil("ls", MODEL, root=world.root)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [cell.strip() for cell in lines[1].strip("|").split("|")] == [
        "MODEL",
        "MODEL PATH",
        "CHECKPOINT PATH",
        "# OF REPLICAS",
        "(SELECTED) REPLICAADDRESS",
        "METHODS",
    ]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        "lm",
        "saxml.server.pax.lm.params.gptj.GPTJ",
        "None",
        "1",
        server.address,
        "lm.generate, lm.score",
    ]
    assert result.out.endswith(
        "+----------+---------+\n"
        "|  METHOD  |   ACL   |\n"
        "+----------+---------+\n"
        "| lm.score | acl/all |\n"
        "+----------+---------+\n"
    )


def test_ls_model_in_parts(server: StubServer, world: World) -> None:
    assert saxutil("ls", "-details=false", "-csv", MODEL, root=world.root).out == "# Method,ACL\n"
    assert saxutil("ls", "-acls=false", "-csv", MODEL, root=world.root).out == (
        "# Model,Model Path,Checkpoint Path,# of Replicas,(Selected) ReplicaAddress,Methods\n"
        f"lm,saxml.server.pax.lm.params.gptj.GPTJ,None,1,{server.address},lm.generate, lm.score\n"
    )
    result = saxutil("ls", "-details=false", "-acls=false", MODEL, root=world.root)
    assert (result.code, result.out) == (1, "")
    assert "specify one of --details or --acls" in result.err


def test_ls_model_without_replica_says_why_on_stderr(world: World) -> None:
    world.admin.add_model(MODEL, requested_num_replicas=1)
    result = saxutil("ls", MODEL, root=world.root)
    assert result.code == 0
    assert "no model server has joined the cell" in result.err
    assert "joined" not in result.out
    world.admin.stats = admin_pb2.StatsResponse(
        model_server_type_stats=[admin_pb2.ModelServerTypeStat(num_replicas=1)],
        num_servers_by_servable_model_path={"other.M": 1},
    )
    result = saxutil("ls", MODEL, root=world.root)
    assert "can serve p.M; they serve other.M" in result.err


def test_ls_unknown_model(world: World) -> None:
    result = saxutil("ls", "/sax/test/nope", root=world.root)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        "Error: Failed to list model: rpc error: code = NotFound desc = "
        "model /sax/test/nope not found\n"
    )


def test_ls_unknown_cell(world: World) -> None:
    result = saxutil("ls", "/sax/nope", root=world.root)
    assert result.code == 1
    assert "there is no cell /sax/nope" in result.err


# Publish and the rest of a model's life.


def test_publish_update_unpublish(world: World) -> None:
    args = ["publish", MODEL, "p.M", "gs://b/ckpt_1", "2", 'A="x=y"', "B="]
    assert saxutil(*args, root=world.root) == Result(0, "", "")
    model = world.admin.models[MODEL].model
    assert (model.model_path, model.checkpoint_path) == ("p.M", "gs://b/ckpt_1")
    assert model.requested_num_replicas == 2
    assert dict(model.overrides) == {"A": '"x=y"', "B": ""}

    assert saxutil("update", "-replicas=0", MODEL, root=world.root).code == 0
    assert saxutil("update_checkpoint", MODEL, "gs://b/ckpt_2", root=world.root).code == 0
    model = world.admin.models[MODEL].model
    assert (model.requested_num_replicas, model.checkpoint_path) == (0, "gs://b/ckpt_2")
    assert dict(model.overrides) == {"A": '"x=y"', "B": ""}
    assert all(left and left < 61 for left in world.admin.time_left)

    assert saxutil("unpublish", MODEL, root=world.root) == Result(0, "", "")
    result = saxutil("unpublish", MODEL, root=world.root)
    assert (result.code, result.out) == (1, "")
    assert "Failed to unpublish model: rpc error: code = NotFound" in result.err


def test_publish_twice(server: StubServer, world: World) -> None:
    result = saxutil("publish", MODEL, "p.M", "None", "1", root=world.root)
    assert result.code == 1
    assert "Failed to publish model: rpc error: code = AlreadyExists" in result.err


def test_update_without_replicas(server: StubServer, world: World) -> None:
    result = saxutil("update", MODEL, root=world.root)
    assert result.code == 1
    assert "Num replicas must be non-negative" in result.err
    assert world.admin.count(admin_pb2.UpdateRequest) == 0


def test_acls(server: StubServer, world: World) -> None:
    def get(*args: str) -> str:
        result = saxutil("getacl", *args, root=world.root)
        assert result.code == 0
        return result.out

    assert get("/sax/test") == "acl/all\n"
    assert get(MODEL) == "No admin ACLs set for model.\n"
    assert get(MODEL, "all") == "No ACLs set for model.\n"
    for args in (["lm.score", "acl/a"], ["lm.generate", "acl/b"], ["acl/c"]):
        assert saxutil("setacl", MODEL, *args, root=world.root).code == 0
    assert get(MODEL) == "acl/c\n"
    assert get(MODEL, "all") == "lm.generate: acl/b\nlm.score: acl/a\n"
    assert get(MODEL, "lm.score") == "acl/a\n"
    assert saxutil("setacl", MODEL, "lm.score", "", root=world.root).code == 0
    assert get(MODEL, "lm.score") == "No ACLs set for method.\n"


@pytest.mark.parametrize(
    ("acl", "text"),
    [
        ("acl/x", "code = Unimplemented desc = ACL check is not supported"),
        ("x", "x is not a valid ACL name (must start with one of [acl/])"),
        ("", "config must be saved with a non-empty write ACL"),
    ],
)
def test_cell_acl_that_cannot_be_set(world: World, acl: str, text: str) -> None:
    result = saxutil("setacl", "/sax/test", acl, root=world.root)
    assert result.code == 1
    assert text in result.err


def test_create_and_delete_a_cell(tmp_path: Path) -> None:
    assert saxutil("create", "/sax/new", "/fs/root", root=tmp_path).code == 0
    assert saxutil("getacl", "/sax/new", root=tmp_path).out == "acl/all\n"
    result = saxutil("ls", "/sax/new", root=tmp_path)
    assert result.code == 1
    assert "no admin server has been started" in result.err
    result = saxutil("create", "/sax/new", "/fs/root", root=tmp_path)
    assert result.code == 1
    assert "exists already" in result.err
    result = saxutil("delete", "/sax/new", root=tmp_path, stdin="n\n")
    assert result.code == 0
    assert "Not deleted" in result.out
    assert "new" in saxutil("ls", "/sax", root=tmp_path).out
    assert saxutil("delete", "/sax/new", root=tmp_path, stdin="y\n").code == 0
    assert "new" not in saxutil("ls", "/sax", root=tmp_path).out


def test_watch_prints_changes_and_fails_when_the_model_is_gone(world: World) -> None:
    world.admin.add_model(MODEL, "a:1", "b:2")
    process = subprocess.Popen(
        [*command(), f"-sax_root={world.root}", "watch", MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    assert [process.stdout.readline() for _ in range(3)] == ["Reset\n", "+ a:1\n", "+ b:2\n"]
    world.admin.change(MODEL, "-", "a:1")
    assert process.stdout.readline() == "- a:1\n"
    asked = world.admin.count(admin_pb2.WatchLocRequest)
    wait_until(lambda: world.admin.count(admin_pb2.WatchLocRequest) > asked - 1)
    time.sleep(0.2)
    world.admin.remove_model(MODEL)
    assert process.stdout.readline() == "Reset\n"
    assert process.wait(10) == 1
    assert "code = NotFound" in process.stderr.read()


def test_watch_can_be_interrupted(world: World) -> None:
    world.admin.add_model(MODEL, "a:1")
    process = subprocess.Popen(
        [*command(), f"-sax_root={world.root}", "watch", MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "+ a:1\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 1
