"""The guide, step by step, with real processes; then each of them is killed and comes back."""

import pathlib
import re

import pytest

from tests.integration.guide.cell import CELL, MODEL, MODEL_PATH, Cell, cell_in
from tests.integration.processes import Process

PROMPT = "21,3,28,120,84,8,48,25"
ROW = re.compile(r"\| (\d+(?:,\d+)*) +\| +(-?\d+(?:\.\d+)?) \|")


def generate(cell: Cell) -> str:
    done = cell.saxutil("lm.generate", MODEL, PROMPT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_loaded(server: Process) -> None:
    server.wait_for(r"loading completed\.", 180)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_guide_walks_and_survives_kills(kind: str, tmp_path: pathlib.Path) -> None:
    with cell_in(kind, tmp_path) as cell, cell.admin_server() as first_admin:
        first_admin.wait_for(f"Starting the server on port {cell.admin_port}")
        with cell.model_server() as server:
            server.wait_for("Joined")
            checkpoint = cell.convert()
            cell.publish(checkpoint)
            check_loaded(server)
            check_listing(cell, checkpoint)
            table = generate(cell)
            check_four_beams(table)
            check_scores(cell)
            server.kill()
        with cell.model_server() as server:
            server.wait_for("Joined")
            assert generate(cell) == table
            first_admin.kill()
            with cell.admin_server() as second_admin:
                second_admin.wait_for("Loaded manager state")
                second_admin.wait_for(r"with status Loaded on|Initializing state")
                assert generate(cell) == table
                assert MODEL.rpartition("/")[2] in cell.saxutil("ls", CELL).stdout
                check_unpublish(cell, server)
                server.terminate()
                server.wait_for("Draining")
                assert server.wait() == 0
                second_admin.terminate()
                assert second_admin.wait() == 0


def check_listing(cell: Cell, checkpoint: str) -> None:
    assert "| 0 | gptj     |" in cell.saxutil("ls", CELL).stdout
    listed = cell.saxutil("ls", MODEL).stdout
    for part in (MODEL_PATH, checkpoint, f"127.0.0.1:{cell.model_port}"):
        assert part in listed


def check_four_beams(table: str) -> None:
    lines = table.splitlines()
    rows = [ROW.fullmatch(line) for line in lines[3:-1]]
    assert re.fullmatch(r"\| +GENERATE +\| +SCORE +\|", lines[1])
    assert len(rows) == 4
    found = [(m[1], float(m[2])) for m in rows if m is not None]
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)
    assert all(4 < len(ids.split(",")) <= 16 and ids.endswith(",1") for ids, _ in found)


def check_scores(cell: Cell) -> None:
    both = cell.saxutil("lm.score", MODEL, PROMPT, "7,8", "9").stdout
    one = cell.saxutil("lm.score", MODEL, PROMPT, "9").stdout
    assert re.search(r"\| 7,8 +\| +-\d+\.\d+ \|", both)
    assert re.search(r"\| +9 \| +-\d+\.\d+ \|", one)


def check_unpublish(cell: Cell, server: Process) -> None:
    assert cell.saxutil("unpublish", MODEL).returncode == 0
    server.wait_for("unloaded " + MODEL)
    assert "gptj" not in cell.saxutil("ls", CELL).stdout
    refused = cell.saxutil("lm.generate", MODEL, PROMPT)
    assert refused.returncode == 1
    assert f"model {MODEL} not found" in refused.stderr
