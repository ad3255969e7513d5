"""The load generator against a cell of real processes: all that was sent is accounted for."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.guide.cell import Cell, joined_cell
from tools.bench import serving
from tools.convert.llama import convert_llama

MODEL = "/sax/test/load"
PATH = "saxml.server.pax.lm.params.auto.AutoLM"
OVERRIDES = [
    "TOKENIZED_INPUT=true",
    "TOKENIZED_OUTPUT=true",
    "INPUT_SEQ_LEN=32",
    "MAX_DECODE_STEPS=24",
    "BATCH_SIZE=2",
    "MAX_LIVE_BATCHES=1",
]
# min_decode_steps keeps stop tokens away: answers have as many tokens as are asked for.
EXACTLY = ["--output_tokens=12", "--extra=min_decode_steps=12", "--extra=temperature=0"]


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    place = tmp_path_factory.mktemp("cell")
    checkpoint = convert_llama("tests/golden/tiny_llama", str(place / "weights"))
    with joined_cell(place) as (cell, server):
        done = cell.saxutil("publish", MODEL, PATH, checkpoint, "1", *OVERRIDES)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        server.wait_for(r"loading completed\.", 180)
        yield cell


def load(cell: Cell, folder: pathlib.Path, *flags: str) -> list[dict[str, Any]]:
    report = folder / "report.json"
    code = serving.main(
        [
            "serving",
            f"--model={MODEL}",
            f"--sax_root={cell.root}",
            "--vocab=200",
            "--prompt_tokens=6,0.5,1,20",
            f"--json={report}",
            *flags,
        ]
    )
    assert code == 0
    found = json.loads(report.read_text())
    assert found["kind"] == "serving"
    runs: list[dict[str, Any]] = found["runs"]
    return runs


def test_open_loop_counts_every_request_and_token(
    cell: Cell, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["--ttft_limit=60", "--tbt_limit=60"]
    runs = load(cell, tmp_path, "--sweep=20,40", "--requests=30", "--stream", *EXACTLY, *limits)
    assert [run["rate"] for run in runs] == [20, 40]
    for run in runs:
        assert run["requests"] == 30 == run["ok"] + sum(run["errors"].values())
        assert run["ok"] == 30 == run["good"]
        assert run["output_tokens"] == 12 * run["ok"]
        assert run["output_tokens_per_s"] == pytest.approx(12 * run["requests_per_s"])
        for name in ("ttft_s", "tbt_s", "latency_s"):
            assert 0 < run[name]["p50"] <= run[name]["p90"] <= run[name]["p99"]
        assert run["ttft_s"]["p50"] < run["latency_s"]["p50"]
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_refused_requests_are_errors_by_code(cell: Cell, tmp_path: pathlib.Path) -> None:
    (run,) = load(cell, tmp_path, "--concurrency=8", "--requests=60", "--fail_fast", *EXACTLY)
    assert run["requests"] == 60 == run["ok"] + sum(run["errors"].values())
    assert set(run["errors"]) == {"RESOURCE_EXHAUSTED"}
    assert run["output_tokens"] == 12 * run["ok"] > 0
    assert "ttft_s" not in run


def test_requests_that_fail_count_no_tokens(
    cell: Cell, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model=/sax/test/load", f"--sax_root={cell.root}", "--concurrency=2"]
    bad = ["--requests=4", "--warmup=0", "--vocab=90000", "--seed=3", "--stream"]
    report = tmp_path / "bad.json"
    assert serving.main(["serving", *flags, *bad, f"--json={report}"]) == 1
    (run,) = json.loads(report.read_text())["runs"]
    assert run["errors"] == {"INVALID_ARGUMENT": 4}
    assert (run["ok"], run["output_tokens"], run["latency_s"]) == (0, 0, None)
    assert "INVALID_ARGUMENT" in capsys.readouterr().out
    assert serving.main(["serving", *flags, *bad[2:], "--warmup=1"]) == 1
    assert "requests to warm up ended with INVALID_ARGUMENT" in capsys.readouterr().err
