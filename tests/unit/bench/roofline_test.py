"""The roofline: where the points lie, and what the roof is made of."""

import dataclasses
import json
import pathlib

import pytest

from tools.bench import machine, roofline
from tools.bench.cases import SHAPES, Case
from tools.bench.peers_table import Entrant, Sample, report

CASE = Case.parse("decode1", decode_tokens=64, beam_tokens=4)
OURS = Entrant("sax-bare", "small", "bfloat16")


def peers_report(*samples: Sample) -> dict[str, object]:
    found = report(samples, {"decode1": CASE}, SHAPES, 0.1)
    parsed: dict[str, object] = json.loads(json.dumps(found))
    return parsed


def test_a_decode_of_one_row_is_bound_by_reading() -> None:
    size = 2 * SHAPES["small"].step_weights
    samples = [
        Sample(OURS, "decode1", 0, 20e9 / size, 40.0, 0.0),
        Sample(OURS, "decode1", 1, 1.0, 40.0, 0.9),
    ]
    (point,) = roofline.points(peers_report(*samples), {"bfloat16": 400e9}, 40.0)
    assert point["intensity"] == pytest.approx(1, rel=0.05)
    assert point["part"] == pytest.approx(0.5, rel=0.05)
    assert point["seconds_per_token"] == pytest.approx(size / 20e9)
    assert point["entrant"] == "sax-bare bfloat16"


def test_many_operations_a_byte_are_bound_by_computing() -> None:
    found = peers_report(Sample(OURS, "decode1", 0, 10.0, 40.0, 0.0))
    (point,) = roofline.points(found, {"bfloat16": 1e9}, 40.0)
    _, operations = CASE.work(SHAPES["small"], "bfloat16")
    assert point["part"] == pytest.approx(10 * operations / 1e9)


def test_a_peak_is_measured_by_each_kind_of_kernel() -> None:
    for element in ("float32", "bfloat16", "int8"):
        assert 1e8 < roofline.peak(element) < 1e15


def test_program_writes_what_plot_reads(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(roofline, "peak", lambda name: 1e12)
    monkeypatch.setattr(machine, "read_bandwidth", lambda: 40.0)
    source, out = tmp_path / "peers.json", tmp_path / "roofline.json"
    other = dataclasses.replace(OURS, engine="hf")
    samples = [Sample(entrant, "decode1", 0, 9.0, 40.0, 0.0) for entrant in (OURS, other)]
    source.write_text(json.dumps(peers_report(*samples)))
    assert roofline.main(["roofline", str(source), f"--json={out}"]) == 0
    assert "hf bfloat16" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["kind"], found["peaks"], len(found["points"])) == (
        "roofline",
        {"bfloat16": 1e12},
        2,
    )


def test_other_reports_are_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.json"
    for text in ('{"kind": "serving", "work": []}', "{}", "no JSON"):
        file.write_text(text)
        assert roofline.main(["roofline", str(file)]) == 1
        assert str(file) in capsys.readouterr().err
