"""Streams and overload through the whole cell: what saxutil, `import sax` and clients of SAX make
of a stream is what lm.generate answers."""

import concurrent.futures
import itertools
import json
import pathlib
import string
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import tokenizers

import sax
from saxml.common import errors
from saxml.proto import lm_pb2, lm_pb2_grpc
from saxml.tokenizer.bpe import byte_level_bpe
from tests.integration.guide.cell import Cell, joined_cell

BEAMS, SAMPLES, WIDE = "/sax/test/beams", "/sax/test/samples", "/sax/test/wide"
PATH = "saxml.server.pax.lm.params.auto.AutoLM"
PROMPT = "Hello,world"
COMMON = ["INPUT_SEQ_LEN=40", "MAX_DECODE_STEPS=24", "STOP_TOKEN_IDS=[0]", "PREPEND_SOS=false"]


def vocabulary(folder: pathlib.Path, tokens: list[str]) -> str:
    """Where a tokenizer lies whose ids are these tokens, in order."""
    ids = {token: i for i, token in enumerate(tokens)}
    path = folder / "tokenizer.json"
    folder.mkdir()
    path.write_text(byte_level_bpe(ids, [], single_digits=False).to_str())
    return f'VOCABULARY_PATH="{path}"'


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    place = tmp_path_factory.mktemp("cell")
    letters = string.ascii_letters + string.digits + ".,!?"
    ascii_tokens = [*letters, *map("".join, itertools.product(letters, repeat=2))][:211]
    byte_tokens = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:211]
    plain = vocabulary(place / "ascii", ascii_tokens)
    any_bytes = vocabulary(place / "bytes", byte_tokens)
    with joined_cell(place) as (cell, _):
        checkpoint = cell.convert()
        beams = ["USE_BEAM_SEARCH=true", "BEAM_SIZE=3", "MIN_DECODE_STEPS=4"]
        for model, overrides in {
            BEAMS: [plain, *beams],
            SAMPLES: [plain, "NUM_SAMPLES=3", "MAX_LIVE_BATCHES=1", "BATCH_SIZE=1"],
            WIDE: [any_bytes, *beams],
        }.items():
            done = cell.saxutil("publish", model, PATH, checkpoint, "1", *COMMON, *overrides)
            assert done.returncode == 0, done.stderr
            done = cell.saxutil("-sax_timeout=180s", "wait", model)
            assert done.returncode == 0, done.stderr
        yield cell


def generate(cell: Cell, model: str, *flags: str) -> tuple[list[str], list[float]]:
    done = cell.saxutil("-format=json", "lm.generate", *flags, model, PROMPT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [answer["text"] for answer in found], [answer["score"] for answer in found]


def test_saxutil_shows_beams_as_they_change_and_ends_with_the_answer(cell: Cell) -> None:
    texts, scores = generate(cell, BEAMS)
    done = cell.saxutil("lm.generate", "-stream", BEAMS, PROMPT)
    assert done.returncode == 0, done.stderr
    shown, _, last = done.stdout.rpartition("Scores: ")
    blocks = shown.split("\n\n")
    assert blocks.pop() == ""
    assert blocks[-3:] == texts
    assert [float(s) for s in last.split(",")] == pytest.approx(scores, rel=1e-6)
    messages = [blocks[i : i + 3] for i in range(0, len(blocks), 3)]
    assert len(messages) > 4
    taken_back = [
        before[i]
        for before, after in itertools.pairwise(messages)
        for i in range(3)
        if not after[i].startswith(before[i])
    ]
    assert taken_back  # beams do change places


@pytest.mark.parametrize("model", [BEAMS, WIDE, SAMPLES])
def test_stream_in_python_adds_up_to_the_answer(cell: Cell, model: str) -> None:
    with sax.Model(model, sax.Options(sax_root=cell.root)) as opened:
        lm = opened.LM()
        options = sax.ModelOptions()
        options.SetTimeout(60)
        if model == SAMPLES:
            options.SetExtraInput("temperature", 2.0)
            options.SetExtraInput("seed", 5)
        wanted = lm.Generate(PROMPT, options)
        texts, scores = ["", "", ""], [0.0, 0.0, 0.0]
        calls: list[bool] = []

        def callback(last: bool, items: list[tuple[str, int, list[float]]]) -> None:
            calls.append(last)
            for i, (text, kept, added) in enumerate(items):
                assert kept <= len(texts[i])
                texts[i] = texts[i][:kept] + text
                scores[i] += added[0]

        lm.GenerateStream(PROMPT, callback, options)
        found = list(zip(texts, scores, strict=True))
        if model == SAMPLES:
            found.sort(key=lambda answer: -answer[1])
        assert [text for text, _ in found] == [text for text, _ in wanted]
        assert [score for _, score in found] == pytest.approx([s for _, s in wanted], rel=1e-6)
        assert calls[-1]
        assert len(calls) > 5


def request(model: str, **items: float) -> lm_pb2.GenerateRequest:
    found = lm_pb2.GenerateRequest(model_key=model, text=PROMPT)
    for key, value in items.items():
        found.extra_inputs.items[key] = value
    return found


def test_client_that_cuts_bytes_is_exact_in_ascii(cell: Cell) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{cell.model_port}") as channel:
        rpc: Any = lm_pb2_grpc.LMServiceStub(channel)
        texts = [b"", b"", b""]
        for message in rpc.GenerateStream(request(BEAMS)):
            for i, item in enumerate(message.items):
                assert item.prefix_len <= len(texts[i])
                texts[i] = texts[i][: item.prefix_len] + item.text.encode()
        wanted = [answer.text.encode() for answer in rpc.Generate(request(BEAMS)).texts]
    assert texts == wanted


def test_overloaded_server_says_when_to_come_again_and_our_client_does(cell: Cell) -> None:
    with (
        grpc.insecure_channel(f"127.0.0.1:{cell.model_port}") as channel,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
    ):
        rpc: Any = lm_pb2_grpc.LMServiceStub(channel)
        calls = [rpc.Generate.future(request(SAMPLES)) for _ in range(12)]
        failed = [e for call in calls if (e := call.exception()) is not None]
        assert failed
        assert len(failed) < 12
        for error in failed:
            assert isinstance(error, grpc.RpcError)
            ours = errors.from_rpc_error(error)
            assert ours.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(ours) == f"Too many requests: {SAMPLES} 1"
            assert ours.retry_after_s is not None
            assert 0.01 <= ours.retry_after_s <= 5
        with sax.Model(SAMPLES, sax.Options(sax_root=cell.root)) as opened:
            lm = opened.LM()
            answers = list(pool.map(lambda _: lm.Generate(PROMPT), range(12)))
    assert all(len(found) == 3 for found in answers)
