"""Tables that the Go program printed, and the one in the SAX guide."""

import json
from pathlib import Path
from typing import Any

import pytest

from saxml.saxutil.format import format_float
from saxml.saxutil.table import render_table
from tests.golden.guide import BEAM_ROWS, TABLE

CORPUS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "table_corpus.jsonl").read_text("utf-8").splitlines()
]


def test_corpus_is_all_there() -> None:
    assert len(CORPUS) == 60


@pytest.mark.parametrize("line", CORPUS, ids=range(len(CORPUS)))
def test_table_of_the_go_program(line: dict[str, Any]) -> None:
    assert render_table(line["header"], line["rows"]) == line["out"]


def test_table_of_the_guide() -> None:
    rows = [[ids, format_float(float(score))] for ids, score in BEAM_ROWS]
    assert render_table(["generate", "Score"], rows) == TABLE
