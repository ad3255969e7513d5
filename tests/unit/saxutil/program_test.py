"""saxutil as a process, against stub servers: what it prints, where, and how it exits."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from saxml.proto import admin_pb2, lm_pb2, modelet_pb2
from tests.unit.client.stubs import StubServer, chunk
from tests.unit.client.world import MODEL, World, wait_until
from tests.unit.saxutil.command_line import Result, command, saxutil

COMMANDS = [
    *("create", "delete", "ls", "publish", "unpublish", "update", "update_checkpoint"),
    *("getacl", "setacl", "watch", "status", "stats", "wait", "save", "export"),
    *("lm.generate", "lm.score", "lm.embed", "lm.gradient"),
    *("vm.classify", "vm.detect", "vm.embed", "vm.generate", "am.recognize"),
]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def server(world: World) -> StubServer:
    server = world.server()
    world.admin.add_model(
        MODEL,
        server.address,
        model_path="saxml.server.pax.lm.params.gptj.GPTJ",
        checkpoint_path="None",
        requested_num_replicas=1,
        method_names=["lm.generate", "lm.score"],
    )
    return server


# Help, usage, exit codes.


def test_help_lists_every_command() -> None:
    for args in (["help"], ["commands"]):
        result = saxutil(*args)
        assert result.code == 0
        assert not result.err
        assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize("name", ["ls", "lm.generate", "update", "am.recognize", "flags"])
def test_help_of_one_command(name: str) -> None:
    result = saxutil("help", name)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(name)


def test_flags_of_the_program_go_to_stderr_and_of_a_command_to_stdout() -> None:
    result = saxutil("flags")
    assert (result.code, result.out) == (0, "")
    assert "-sax_timeout duration" in result.err
    result = saxutil("flags", "lm.generate")
    assert (result.code, result.err) == (0, "")
    assert "-terse" in result.out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "Usage: saxutil"),
        (["nosuch"], "Unknown command nosuch"),
        (["help", "nosuch"], "Subcommand nosuch not understood"),
        (["-nosuch"], "flag provided but not defined: -nosuch"),
        (["-sax_timeout=60", "ls", "/sax"], "invalid duration"),
        (["-sax_timeout=0s", "ls", "/sax"], "must be positive"),
        (["ls"], "Provide /sax, /sax/<cell>, or /sax/<cell>/<model>"),
        (["ls", "/sax", "-csv"], "Provide /sax"),
        (["publish", "/sax/test/lm", "p.M", "None"], "Provide model ID"),
        (["publish", "/sax/test/lm", "p.M", "None", "x"], "x is not a number"),
        (["publish", "/sax/test/lm", "p.M", "None", "99999999999"], "out of range"),
        (["publish", "/sax/test/lm", "p.M", "None", "1", "A"], "form key=val"),
        (["unpublish"], "Provide a single model ID"),
        (["update", "-replicas=x", "/sax/test/lm"], "parse error"),
        (["update_checkpoint", "/sax/test/lm"], "checkpoint path"),
        (["getacl"], "Provide a cell or model ID"),
        (["setacl", "/sax/test/lm"], "Provide a cell or model ID"),
        (["setacl", "/sax/test", "lm.score", "acl/all"], "no method"),
        (["watch"], "Provide a model ID"),
        (["-format=json", "watch", "/sax/test/lm"], "it has no -format"),
        (["-format=xml", "ls", "/sax"], "-format must be one of table, json, csv, not xml"),
        (["-format=json", "ls", "-csv", "/sax"], "exclude each other"),
        (["-format=json", "lm.generate", "-terse", "/sax/test/lm", "x"], "neither"),
        (["-format=csv", "lm.generate", "-stream", "/sax/test/lm", "x"], "neither"),
        (["wait"], "Provide a model ID"),
        (["wait", "-replicas=-1", "/sax/test/lm"], "must not be negative"),
        (["status", "/sax/a", "/sax/b"], "Provide a cell ID"),
        (["stats"], "Provide a cell or model ID"),
        (["create", "/sax/test"], "Provide a SAX cell name"),
        (["delete"], "Provide a SAX cell name"),
        (["save", "/sax/test/lm"], "checkpoint path"),
        (["export", "/sax/test/lm"], "method names"),
        (["lm.generate", "/sax/test/lm"], "Provide model and query for generate"),
        (["lm.generate", "-stream", "-terse", "/sax/test/lm", "x"], "exclude each other"),
        (["lm.generate", "-stream", "-n=2", "/sax/test/lm", "x"], "exclude each other"),
        (["lm.generate", "-h"], "lm.generate"),
        (["lm.score", "/sax/test/lm", "prefix"], "Provide model and prefix/suffix for score"),
        (["lm.embed", "/sax/test/lm"], "Provide model and text for embed"),
        (["lm.gradient", "/sax/test/lm", "p"], "Provide model, prefix and suffix"),
        (["vm.classify", "/sax/test/lm"], "Provide"),
    ],
)
def test_usage_error_is_2_on_stderr_without_hint(
    args: list[str], text: str, tmp_path: Path
) -> None:
    result = saxutil(*args, root=tmp_path)
    assert result.code == 2
    assert not result.out
    assert text in result.err
    assert "Hint" not in result.err


def test_help_flag_of_the_program_succeeds() -> None:
    result = saxutil("-h")
    assert (result.code, result.out) == (0, "")
    assert "Commands:" in result.err


@pytest.mark.parametrize(
    "args",
    [
        ["publish", "NAME", "p.M", "None", "1"],
        ["unpublish", "NAME"],
        ["update", "-replicas=1", "NAME"],
        ["update_checkpoint", "NAME", "None"],
        ["watch", "NAME"],
        ["wait", "NAME"],
        ["stats", "NAME"],
        ["status", "NAME"],
        ["getacl", "NAME"],
        ["setacl", "NAME", "acl/all"],
        ["ls", "NAME"],
        ["lm.generate", "NAME", "x"],
        ["lm.score", "NAME", "p", "s"],
        ["save", "NAME", "/tmp/x"],
        ["export", "NAME", "lm.score", "/tmp/x"],
        ["vm.embed", "NAME", "x"],
    ],
    ids=lambda args: args[0],
)
def test_malformed_name_is_1_with_hint(args: list[str], tmp_path: Path) -> None:
    _check_malformed(args, "/sax/test/Lm", tmp_path)


@pytest.mark.parametrize("name", ["lm", "/sax/test/lm/x", "/Sax/test/lm", "/sax/test/"])
def test_malformed_names(name: str, tmp_path: Path) -> None:
    _check_malformed(["lm.generate", "NAME", "x"], name, tmp_path)


def _check_malformed(args: list[str], name: str, root: Path) -> None:
    result = saxutil(*[name if a == "NAME" else a for a in args], root=root)
    assert result.code == 1
    assert not result.out
    assert result.err.startswith("Error: Invalid ")
    assert name in result.err
    assert "InvalidArgument" in result.err
    assert "\nHint: " in result.err


def test_no_root_says_so() -> None:
    result = saxutil("ls", "/sax")
    assert result.code == 1
    assert "pass --sax_root or set SAX_ROOT" in result.err


def test_flag_wins_over_environment(world: World, tmp_path: Path) -> None:
    result = saxutil(f"--sax_root={world.root}", "ls", "/sax", root=tmp_path / "nope")
    assert result.code == 0
    assert "test" in result.out


@pytest.mark.parametrize(
    "name", ["vm.classify", "vm.detect", "vm.embed", "vm.generate", "am.recognize"]
)
def test_services_that_are_not_there_say_unimplemented(name: str, tmp_path: Path) -> None:
    result = saxutil(name, "-extra=a:1", MODEL, "x", "y", root=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert "code = Unimplemented" in result.err
    assert name in result.err


def test_starts_fast_and_without_heavy_modules(world: World) -> None:
    code = (
        "import sys; from saxml.saxutil.program import main; main(sys.argv[1:]);"
        "bad = [m for m in ('jax', 'numpy', 'google.cloud.storage', 'absl') if m in sys.modules];"
        "assert not bad, bad"
    )
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", code, f"-sax_root={world.root}", "ls", "/sax/test"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert time.monotonic() - start < 3  # 0.2 s on an idle machine


def test_reader_that_leaves_early_is_no_error(server: StubServer, world: World) -> None:
    server.answers = [lm_pb2.DecodedText(text="x" * 100, score=-1)] * 5000
    shell = " ".join(command())
    done = subprocess.run(
        ["sh", "-c", f"{shell} -sax_root={world.root} lm.generate {MODEL} hi | head -1"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("+--")
    assert not done.stderr


# ls.


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


# Language models.


def test_generate_table(server: StubServer, world: World) -> None:
    server.answers = [
        lm_pb2.DecodedText(text="one two", score=-0.023136413097381592),
        lm_pb2.DecodedText(text="three", score=0.0000125),
    ]
    result = saxutil(
        "lm.generate", "-extra=temperature:0.5,stop:'x'", MODEL, "1,2,3", root=world.root
    )
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "+----------+--------------+\n"
        "| GENERATE |    SCORE     |\n"
        "+----------+--------------+\n"
        "| one two  | -0.023136413 |\n"
        "| three    | 1.25E-05     |\n"
        "+----------+--------------+\n"
    )
    (request,) = server.requests
    assert (request.model_key, request.text) == (MODEL, "1,2,3")
    assert dict(request.extra_inputs.items) == {"temperature": 0.5}
    assert dict(request.extra_inputs.strings) == {"stop": "x"}
    assert 50 < (server.time_left[0] or 0) < 61


def test_generate_terse_sorts_then_cuts_and_the_table_only_cuts(
    server: StubServer, world: World
) -> None:
    server.answers = [lm_pb2.DecodedText(text=f"t{i}", score=i) for i in range(3)]
    result = saxutil("lm.generate", "-terse", "-n=2", MODEL, "x", root=world.root)
    assert result.out == "t2\nt1\n"
    table = saxutil("lm.generate", "-n", "2", MODEL, "x", root=world.root).out
    assert "t0" in table
    assert "t2" not in table
    assert "t2" in saxutil("lm.generate", "-n=-1", MODEL, "x", root=world.root).out


def test_generate_reads_stdin_for_a_dash(server: StubServer, world: World) -> None:
    saxutil("lm.generate", MODEL, "-", root=world.root, stdin="日本\ntext\n")
    assert server.requests[0].text == "日本\ntext\n"


def test_argument_that_is_not_utf8(server: StubServer, world: World) -> None:
    done = subprocess.run(
        [*command(), f"-sax_root={world.root}", "lm.generate", MODEL, b"\xff"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"must be UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_generate_stream(server: StubServer, world: World) -> None:
    server.chunks = [
        chunk(("日本", 0, [-1.0]), ("b", 0, [-0.1])),
        chunk(("語", 2, [-0.5]), ("c", 1, [-0.2])),
    ]
    result = saxutil("lm.generate", "-stream", MODEL, "x", root=world.root)
    assert (result.code, result.err) == (0, "")
    assert result.out == ("日本\n\nb\n\n日本語\n\nbc\n\nScores: -1.5, -0.30000000000000004\n")


def test_generate_stream_with_several_scores_an_item(server: StubServer, world: World) -> None:
    server.chunks = [chunk(("a", 0, [-1.0, 2.0])), chunk(("b", 1, [-0.5, 3.0]))]
    result = saxutil("lm.generate", "-stream", MODEL, "x", root=world.root)
    assert result.out.endswith(
        "Total Scores[0]: -1.5\nTotal Scores[1]: 5\n\nLast Score[0]: -0.5\nLast Score[1]: 3\n"
    )


def test_generate_stream_without_a_chunk_does_not_hang(server: StubServer, world: World) -> None:
    start = time.monotonic()
    result = saxutil("lm.generate", "-stream", MODEL, "x", root=world.root)
    assert (result.code, result.out) == (0, "")
    assert "without a result" in result.err
    assert time.monotonic() - start < 20


def test_generate_stream_errors_go_to_stderr(server: StubServer, world: World) -> None:
    server.chunks = [chunk(("Hi", 0, [0.0])), chunk(("x", 9, [0.0]))]
    result = saxutil("lm.generate", "-stream", MODEL, "x", root=world.root)
    assert (result.code, result.out) == (1, "Hi\n\n")
    assert "PrefixLen 9 exceeds the current result Hi" in result.err
    server.chunks = server.chunks[:1]
    server.stream_error = grpc.StatusCode.UNAVAILABLE
    result = saxutil("lm.generate", "-stream", MODEL, "x", root=world.root)
    assert (result.code, result.out) == (1, "Hi\n\n")
    assert "Failed to generate query: rpc error: code = Unavailable" in result.err


def test_generate_through_a_proxy(world: World) -> None:
    server = world.server("proxy")
    result = saxutil("lm.generate", f"-proxy={server.address}", "-terse", MODEL, "x")
    assert (result.code, result.out) == (0, "proxy\n")


@pytest.mark.parametrize("extra", ["a", "a:1:2", "a:1,,b:2"])
@pytest.mark.parametrize("name", ["lm.generate", "lm.score", "lm.embed", "lm.gradient"])
def test_bad_extra_inputs_fail_before_any_call(
    server: StubServer, world: World, name: str, extra: str
) -> None:
    texts = ["x", "y"] if name in ("lm.score", "lm.gradient") else ["x"]
    result = saxutil(name, f"-extra={extra}", MODEL, *texts, root=world.root)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: Could not parse extra inputs: ")
    assert not server.requests


def test_score_of_several_suffixes_has_two_columns(server: StubServer, world: World) -> None:
    server.scores = [-1.5, -2.25]
    result = saxutil("lm.score", MODEL, "prefix", "one", "two", root=world.root)
    assert result.out == (
        "+--------+-------+\n"
        "| SUFFIX | SCORE |\n"
        "+--------+-------+\n"
        "| one    |  -1.5 |\n"
        "| two    | -2.25 |\n"
        "+--------+-------+\n"
    )
    (request,) = server.requests
    assert (request.prefix, [*request.suffix]) == ("prefix", ["one", "two"])


def test_score_with_fewer_scores_than_suffixes(server: StubServer, world: World) -> None:
    result = saxutil("lm.score", MODEL, "prefix", "one", "two", root=world.root)
    assert "| one    |  -1.5 |\n| two    |\n" in result.out


def test_embed(server: StubServer, world: World) -> None:
    result = saxutil("lm.embed", MODEL, "hello", root=world.root)
    assert result.out == (
        "+-------+--------------------------+\n"
        "| TEXT  |        EMBEDDING         |\n"
        "+-------+--------------------------+\n"
        "| hello | 0.125, -1.2345678E-05, 3 |\n"
        "+-------+--------------------------+\n"
    )


def test_gradient(server: StubServer, world: World) -> None:
    result = saxutil("lm.gradient", MODEL, "prefix", "suffix", root=world.root)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[1].split("|")[1].strip() == "SCORE"
    assert lines[1].split("|")[2].strip() == "PARAMS LM W X"
    assert lines[3].split("|")[1].strip() == "-2.5"
    cells = " ".join(line.split("|")[2].strip() for line in lines[3:-1])
    assert cells == "0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, ..."


def test_unknown_model_fails_at_once(world: World) -> None:
    start = time.monotonic()
    result = saxutil("lm.generate", "/sax/test/nope", "x", root=world.root)
    assert (result.code, result.out) == (1, "")
    assert "code = NotFound desc = model /sax/test/nope not found" in result.err
    assert time.monotonic() - start < 20


def test_timeout_is_kept_by_every_command(server: StubServer, world: World) -> None:
    server.release.clear()
    start = time.monotonic()
    result = saxutil("-sax_timeout=500ms", "lm.generate", MODEL, "x", root=world.root)
    assert result.code == 1
    assert "code = DeadlineExceeded" in result.err
    world.admin.silent.set()
    for args in (
        ["ls", "/sax/test"],
        ["publish", "/sax/test/b", "p.M", "None", "1"],
        ["update", "-replicas=1", MODEL],
        ["getacl", MODEL],
    ):
        result = saxutil("-sax_timeout=300ms", *args, root=world.root)
        assert result.code == 1
        assert "code = DeadlineExceeded" in result.err
    assert time.monotonic() - start < 25
    world.admin.silent.clear()
    server.release.set()


def test_dead_admin_server_ends_in_time(world: World) -> None:
    world.admin.stop()
    start = time.monotonic()
    result = saxutil("-sax_timeout=1s", "ls", "/sax/test", root=world.root)
    assert (result.code, result.out) == (1, "")
    assert f"admin server of /sax/test at {world.admin.address}" in result.err
    result = saxutil("-sax_timeout=1s", "lm.generate", MODEL, "x", root=world.root)
    assert result.code == 1
    assert world.admin.address in result.err
    assert time.monotonic() - start < 15


def test_mute_admin_server_ends_in_time(world: World) -> None:
    world.admin.stop()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        location = admin_pb2.Location(location=f"127.0.0.1:{mute.getsockname()[1]}")
        (world.root / "sax/test/location.proto").write_bytes(location.SerializeToString())
        start = time.monotonic()
        result = saxutil("-sax_timeout=1s", "ls", "/sax/test", root=world.root)
        assert result.code == 1
        assert time.monotonic() - start < 10


def test_save_and_export(server: StubServer, world: World) -> None:
    assert saxutil("save", MODEL, "/tmp/ckpt", root=world.root).code == 0
    assert server.requests[0] == modelet_pb2.SaveRequest(
        model_key=MODEL, checkpoint_path="/tmp/ckpt"
    )
    args = ["-rng_seed_mode=fixed", "-signatures=a,b", MODEL, "lm.score,lm.generate", "/tmp/e"]
    result = saxutil("export", *args, root=world.root)
    assert result.code == 1
    assert "Failed to export model: rpc error: code = Unimplemented" in result.err
    request = server.requests[1]
    assert [*request.method_names] == ["lm.score", "lm.generate"]
    assert [*request.signatures] == ["a", "b"]
    assert request.rng_seed_mode == modelet_pb2.ExportRequest.FIXED
    assert request.enable_gpu_multi_device_execution
    result = saxutil("export", "-rng_seed_mode=odd", MODEL, "m", "/tmp/e", root=world.root)
    assert "'odd' is not one of fixed, stateful, stateless" in result.err
