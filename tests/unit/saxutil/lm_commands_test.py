"""saxutil's lm.* commands, as a process against stub servers."""

import subprocess
import time

import grpc
import pytest

from saxml.proto import lm_pb2
from tests.unit.client.stubs import StubServer, chunk
from tests.unit.client.world import MODEL, World
from tests.unit.saxutil.command_line import command, saxutil


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
