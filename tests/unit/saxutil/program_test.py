"""saxutil as a process, against stub servers: what it prints, where, and how it exits."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saxml.proto import admin_pb2, lm_pb2, modelet_pb2
from tests.unit.client.stubs import StubServer
from tests.unit.client.world import MODEL, World
from tests.unit.saxutil.command_line import command, saxutil

COMMANDS = [
    *("create", "delete", "ls", "publish", "unpublish", "update", "update_checkpoint"),
    *("getacl", "setacl", "watch", "status", "stats", "wait", "save", "export"),
    *("lm.generate", "lm.score", "lm.embed", "lm.gradient"),
    *("vm.classify", "vm.detect", "vm.embed", "vm.generate", "am.recognize"),
]


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
