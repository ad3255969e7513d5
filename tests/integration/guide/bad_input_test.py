"""What users get wrong, through the whole cell: each answer has its status and says what to do."""

import pathlib
from collections.abc import Iterator

import pytest

from tests.integration.guide.cell import MODEL, MODEL_PATH, Cell, joined_cell
from tests.integration.processes import Process


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    with joined_cell(tmp_path_factory.mktemp("cell")) as (cell, server):
        cell.publish(cell.convert())
        server.wait_for(r"loading completed\.", 180)
        yield cell


def refused(cell: Cell, *arguments: str) -> str:
    done = cell.saxutil("--sax_timeout=20s", *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("lm.generate", MODEL, "1,two,3"), "InvalidArgument", '"two"'),
        (("lm.generate", MODEL, "1,211"), "InvalidArgument", "outside the vocabulary of 211"),
        (("lm.generate", MODEL, ",".join("1" * 41)), "InvalidArgument", "at most 40"),
        (("lm.generate", "-extra=beta:1", MODEL, "1"), "InvalidArgument", "'beta' is not declared"),
        (("lm.generate", "/sax/test/nope", "1"), "NotFound", "/sax/test/nope not found"),
        (("lm.embed", MODEL, "1"), "InvalidArgument", "does not offer lm.embed; it offers"),
        (("publish", MODEL, MODEL_PATH, "None", "1"), "AlreadyExists", "already exists"),
        (("publish", "/sax/test/M", MODEL_PATH, "None", "1"), "InvalidArgument", "must match"),
        (("publish", "/sax/test/a", "a/b", "None", "1"), "InvalidArgument", "model path"),
        (("publish", "/sax/test/a", MODEL_PATH, "a b", "1"), "InvalidArgument", "checkpoint path"),
        (("unpublish", "/sax/test/nope"), "NotFound", "not found"),
    ],
)
def test_request_is_refused_with_status_and_message(
    cell: Cell, arguments: tuple[str, ...], code: str, message: str
) -> None:
    said = refused(cell, *arguments)
    assert f"code = {code}" in said
    assert message in said


@pytest.mark.parametrize("name", ["gptj", "/sax/test", "/sax/Test/m", "/other/test/m", "/sax//m"])
def test_malformed_name_is_refused(cell: Cell, name: str) -> None:
    assert name in refused(cell, "lm.generate", name, "1")


@pytest.mark.parametrize(
    ("model", "path", "checkpoint", "overrides", "message"),
    [
        ("/sax/test/a", MODEL_PATH, "/nowhere/checkpoint_00000000", (), "/nowhere"),
        ("/sax/test/b", MODEL_PATH, "{}", ("BATCH_SIZE=many",), "BATCH_SIZE"),
        ("/sax/test/c", MODEL_PATH, "{}", ("BATCHES=1",), "no such constant"),
        ("/sax/test/d", "saxml.server.pax.lm.params.gptj.Nope", "None", (), "Nope"),
    ],
)
def test_model_that_cannot_be_loaded_says_why(
    cell: Cell,
    model: str,
    path: str,
    checkpoint: str,
    overrides: tuple[str, ...],
    message: str,
) -> None:
    checkpoint = checkpoint.format(cell.place + "/pax/checkpoint_00000000")
    published = cell.saxutil("publish", model, path, checkpoint, "1", *overrides)
    assert published.returncode == 0, published.stderr
    assert message in refused(cell, "--sax_timeout=4s", "lm.generate", model, "1")
    assert message in cell.saxutil("ls", model).stderr
    assert cell.saxutil("unpublish", model).returncode == 0


def test_other_requests_are_not_hurt(cell: Cell) -> None:
    assert cell.saxutil("lm.generate", MODEL, "1,2,3").returncode == 0


def fails(process: Process) -> str:
    with process:
        assert process.wait() != 0
        return process.output


def test_port_in_use_ends_the_model_server(cell: Cell) -> None:
    said = fails(cell.model_server())
    assert f"port {cell.model_port} is in use" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--sax_cell=/bad", "should have the form /sax/<cell name>"),
        ("--platform_chip=abacus", "abacus"),
        ("--platform_topology=7x7", "7x7"),
        ("--model_filter_regex=(", "regular expression"),
        ("--model_keys=/sax/test/x", "must have the same number"),
        ("--port=99999", "99999"),
        ("--jax_cache_dir=/proc/none", "/proc/none"),
    ],
)
def test_bad_flag_ends_the_model_server(cell: Cell, flag: str, message: str) -> None:
    said = fails(cell.model_server(flag))
    assert message in said
    assert "Traceback" not in said


def test_unknown_cell_is_named(tmp_path: pathlib.Path) -> None:
    said = fails(Cell(str(tmp_path)).model_server("--sax_cell=/sax/nope"))
    assert "/sax/nope" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("place", ["{}/file", "/proc/sax"])
def test_unwritable_place_ends_the_cells_creation(place: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    said = fails(Cell(place.format(tmp_path)).configure())
    assert place.format(tmp_path) in said
    assert "Traceback" not in said
