"""The comparison with peers: who takes part, what happens to those who fail, what is kept."""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from saxml.checkpoint.record import read_record
from tools.bench import machine, peers, peers_install, peers_models
from tools.bench.cases import SHAPES, Case
from tools.bench.engines.protocol import Setup, Size, Task
from tools.bench.peers import Field, Start
from tools.bench.peers_child import Child, ChildError
from tools.bench.peers_install import ENGINES, PEERS, PeerMissingError
from tools.bench.peers_table import Entrant
from tools.convert.safetensors_reader import SafetensorsFolder

SETUP = Setup(
    model="nowhere",
    weights="int8",
    threads=2,
    shape=dataclasses.asdict(SHAPES["tiny"]),
    sizes=[Size(2, 128, 3, 0), Size(1, 430, 4, 4)],
)
TASK = dataclasses.asdict(Task([[5, 6], [7, 8]], 3, 0))
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def command(kind: str = "") -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.unit.bench.fake_engine", SETUP.to_json(), kind)


def child(folder: pathlib.Path, kind: str = "") -> Child:
    return Child("fake", command(kind), ENV, folder / "log")


def test_setup_goes_to_a_child_and_back() -> None:
    assert Setup.from_json(SETUP.to_json()) == SETUP


def test_a_child_answers_whatever_libraries_print(tmp_path: pathlib.Path) -> None:
    with child(tmp_path) as engine:
        assert engine.wait_until_ready(60) == {"version": "7"}
        for _ in range(2):
            answer = engine.run(TASK, 60)
            assert answer["tokens"] == [[5] * 3, [7] * 3]
            assert [len(row) for row in answer["times"]] == [3, 3]
            assert answer["times"][0] == sorted(answer["times"][0])
    assert "a library talks" in (tmp_path / "log").read_text()


def test_a_child_that_cannot_load_says_why(tmp_path: pathlib.Path) -> None:
    with (
        child(tmp_path, "missing") as engine,
        pytest.raises(ChildError, match=r"fake ended with code 1:\n(.*\n)*ImportError: no module"),
    ):
        engine.wait_until_ready(60)


def test_a_child_that_fails_says_why(tmp_path: pathlib.Path) -> None:
    with child(tmp_path, "fails") as engine:
        engine.wait_until_ready(60)
        with pytest.raises(ChildError, match="the engine has no memory"):
            engine.run(TASK, 60)
        with pytest.raises(ChildError, match="fake ended"):
            engine.run(TASK, 60)


def test_a_child_that_hangs_is_ended(tmp_path: pathlib.Path) -> None:
    with child(tmp_path, "hangs") as engine:
        engine.wait_until_ready(60)
        with pytest.raises(ChildError, match="fake did not answer in 0 s and was ended"):
            engine.run(TASK, 0.1)


@pytest.mark.parametrize("keep", [True, False])
def test_who_fails_is_left_out_and_the_others_go_on(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keep: bool,
) -> None:
    monkeypatch.setattr(machine, "read_bandwidth", lambda: 40.0)
    todo = [Case("decode2", 2, 128, 3), Case("beam4", 1, 430, 4, 4)]
    starts = [
        Start(Entrant(kind or "sax-bare", "tiny", "int8"), command(kind), ENV, kind != "nobeams")
        for kind in ("", "missing", "fails", "stops", "nobeams")
    ]
    field = Field(starts, tmp_path, keep=keep)
    try:
        samples = peers.measure(field, todo, 2, 1)
    finally:
        field.close()
    seen = [(s.entrant.engine, s.case, s.round) for s in samples]
    assert sorted(seen) == [
        ("nobeams", "decode2", 0),
        ("nobeams", "decode2", 1),
        ("sax-bare", "beam4", 0),
        ("sax-bare", "beam4", 1),
        ("sax-bare", "decode2", 0),
        ("sax-bare", "decode2", 1),
    ]
    assert all(s.bandwidth == 40.0 and s.rate > 0 and 0 <= s.others <= 1 for s in samples)
    said = capsys.readouterr().err
    for kind in ("missing", "fails", "stops"):
        assert said.count(f"{kind} int8 takes part no more: ") == 1
    assert "no module named engine" in said
    assert re.search(r"answers of \[1(, 1)?\] tokens, not [34] each", said)
    assert field.about["sax-bare"] == {"version": "7"}


def test_an_interrupt_keeps_what_there_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = 0

    def interrupted() -> float:
        nonlocal probed
        probed += 1
        if probed > 5:  # twice a turn
            raise KeyboardInterrupt
        return 40.0

    monkeypatch.setattr(machine, "read_bandwidth", interrupted)
    start = Start(Entrant("sax-bare", "tiny", "int8"), command(), ENV, True)
    field = Field([start], tmp_path, keep=False)
    try:
        samples = peers.measure(field, [Case("decode2", 2, 128, 3)], 9, 1)
    finally:
        field.close()
    assert [sample.round for sample in samples] == [0, 1]


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_requirements_are_pinned_and_programs_are_there(peer: peers_install.Peer) -> None:
    lines = (ENGINES / f"{peer.name}.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert pinned
    for line in pinned:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line
    assert (ENGINES / f"run_{peer.name}.py").is_file()
    assert peer.maker is None or (ENGINES / f"{peer.maker}.py").is_file()


def test_a_peer_that_cannot_be_installed_is_missing_with_the_reason(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no disk is left\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(PeerMissingError, match=r"exit status 3.*\nno disk is left") as caught:
            peers_install.environment(PEERS["hf"], tmp_path, said.append)
        assert str(caught.value).startswith("hf: ")
    assert len(said) == 2


def test_an_environment_is_made_anew_when_its_requirements_change(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines").mkdir()
    monkeypatch.setattr(peers_install, "ENGINES", tmp_path / "engines")
    asked: list[list[str]] = []

    def run(command: list[str], **options: object) -> None:
        asked.append(command)
        if "venv" in command:
            pathlib.Path(command[-1]).mkdir(parents=True)

    monkeypatch.setattr(subprocess, "run", run)
    found = set()
    for pins in ("a==1", "a==1", "a==2"):
        (tmp_path / "engines" / "hf.txt").write_text(pins)
        found.add(peers_install.environment(PEERS["hf"], tmp_path, lambda text: None))
    assert len(found) == 2
    assert len(asked) == 2 * 2
    (tmp_path / "engines" / "openvino.txt").write_text("b==1")
    peers_install.environment(PEERS["openvino"], tmp_path, lambda text: None)
    assert asked[-1][2:] == ["pip", "uninstall", "--yes", "torchvision"]


def test_a_model_that_a_peer_cannot_make_leaves_nothing(tmp_path: pathlib.Path) -> None:
    base = tmp_path / "tiny-hf"
    base.mkdir()
    with pytest.raises(PeerMissingError, match="No module named 'ctranslate2'"):
        peers_install.model(
            PEERS["ctranslate2"], SHAPES["tiny"], "int8", base, pathlib.Path(sys.executable)
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny-ctranslate2-int8.log", "tiny-hf"]


@pytest.mark.parametrize("family", ["gptj", "llama"])
def test_models_are_made_once_and_converted(tmp_path: pathlib.Path, family: str) -> None:
    shape = SHAPES["tiny"]
    if family == "gptj":
        sizes = {"K": shape.H, "F": 4 * shape.D, "rotary_dim": 8, "tied": False}
        shape = dataclasses.replace(shape, name="tiny_gptj", family="gptj", **sizes)  # type: ignore[arg-type]
    folder = peers_models.hf_folder(shape, tmp_path)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert peers_models.hf_folder(shape, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    checkpoint = peers_models.sax_checkpoint(shape, tmp_path)
    config = read_record(str(checkpoint))[1].config
    assert (config.family, config.num_layers, config.model_dim) == (family, shape.L, shape.D)
    assert (config.hidden_dim, config.vocab_size) == (shape.F, shape.V)
    stored = SafetensorsFolder(str(folder))
    head = "model.embed_tokens" if family == "llama" else "lm_head"
    values = np.asarray(stored.get(f"{head}.weight"))
    assert values.dtype == ml_dtypes.bfloat16
    assert np.std(values.astype(np.float32)) == pytest.approx(0.02, rel=0.05)


def test_bandwidth_is_probed() -> None:
    assert 0.1 < machine.read_bandwidth() < 10_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--peers=hf,vllm"], "'vllm' is not one of hf, ctranslate2"),
        (["--weights=int4"], "'int4' is not one of"),
        (["--cases=decode"], "case 'decode' is not"),
        (["--rounds=0"], "--rounds is at least 1"),
        (["--model=large"], "invalid choice: 'large'"),
    ],
)
def test_bad_arguments(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit):
        peers.main(["peers", *arguments])
    assert reason in capsys.readouterr().err


def test_no_peer_leaves_our_side_alone() -> None:
    args: argparse.Namespace = peers.parser().parse_args(["--peers="])
    assert args.peers == []
    assert args.ours == ["sax-bare", "sax-server"]
