"""Converted checkpoints served: ids of Hugging Face, beams of brute force, scores, streams, bad
requests."""

import contextlib
import math
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import tokenizers

from saxml.common import errors
from saxml.common.clock import SystemClock
from saxml.proto import common_pb2
from saxml.server import configs, loading, registry
from saxml.server.loading import LoadOptions
from saxml.server.servable_model import LmServable
from saxml.tokenizer.bpe import byte_level_bpe
from tests.unit.engine.brute_force_beam import beam_search
from tests.unit.server.messages import changes, pairs
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

GOLDEN = pathlib.Path("tests/golden")
PARAMS = "saxml.server.pax.lm.params."
TOKENIZED = {"TOKENIZED_INPUT": "true", "TOKENIZED_OUTPUT": "true", "INPUT_SEQ_LEN": "64"}
NEVER = math.inf
BEAM_STEPS, BEAM_STOP = 5, 7
configs.import_all()


def ignore(cancel: Callable[[], None]) -> None:
    """For callers that never go away."""


def load(path: str, checkpoint: str, **overrides: str) -> LmServable:
    params = registry.resolve(PARAMS + path)({**TOKENIZED, **overrides})
    return LmServable.load("/sax/test/m", params, checkpoint, LoadOptions(), SystemClock())


def text(ids: np.ndarray) -> str:
    return ",".join(str(i) for i in ids.tolist())


def put_together(messages: Iterable[list[tuple[str, int, float]]]) -> list[tuple[str, float]]:
    """Text and score of each answer of a stream, as clients count."""
    texts: list[str] = []
    scores: list[float] = []
    for items in messages:
        texts, scores = texts or [""] * len(items), scores or [0.0] * len(items)
        for i, (new, kept, added) in enumerate(items):
            assert kept <= len(texts[i])
            texts[i] = texts[i][:kept] + new
            scores[i] += added
    return list(zip(texts, scores, strict=True))


@pytest.fixture(scope="module", params=["tiny_gptj", "tiny_llama"])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    convert = convert_gptj if request.param == "tiny_gptj" else convert_llama
    folder = tmp_path_factory.mktemp("pax")
    return request.param, convert(str(GOLDEN / request.param), str(folder))


@pytest.fixture(scope="module")
def greedy(checkpoint: tuple[str, str]) -> Iterator[LmServable]:
    servable = load(
        "auto.AutoLM", checkpoint[1], MAX_DECODE_STEPS="32", BATCH_SIZE="4", STOP_TOKEN_IDS="[0]"
    )
    yield servable
    servable.check_integrity()
    servable.unload()


def test_greedy_ids_are_those_of_hugging_face(
    checkpoint: tuple[str, str], greedy: LmServable
) -> None:
    golden = np.load(GOLDEN / checkpoint[0] / "golden.npz")
    for index in range(3):
        prompt, wanted = golden[f"prompt_{index}"], golden[f"greedy_{index}"]
        sent = common_pb2.ExtraInputs(items={"per_example_max_decode_steps": len(wanted)})
        (answer,) = pairs(greedy.generate(text(prompt), sent, NEVER, ignore))
        assert answer[0] == text(wanted)


def test_score_is_the_sum_of_hugging_faces_log_probabilities(
    checkpoint: tuple[str, str], greedy: LmServable
) -> None:
    golden = np.load(GOLDEN / checkpoint[0] / "golden.npz")
    prompt, logits = golden["prompt_1"], golden["logits_1"].astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    cut = len(prompt) // 2
    wanted = sum(logp[i - 1, prompt[i]] for i in range(cut, len(prompt)))
    found = greedy.score(
        text(prompt[:cut]), [text(prompt[cut:])] * 2, common_pb2.ExtraInputs(), NEVER, ignore
    )
    assert found == pytest.approx([wanted, wanted], abs=1e-3)


@pytest.fixture(scope="module")
def beams(checkpoint: tuple[str, str]) -> Iterator[LmServable]:
    servable = load(
        "auto.AutoLM",
        checkpoint[1],
        MAX_DECODE_STEPS=str(BEAM_STEPS),
        MIN_DECODE_STEPS="1",
        USE_BEAM_SEARCH="true",
        BEAM_SIZE="3",
        LENGTH_NORM_ALPHA="0.5",
        BATCH_SIZE="1",
        STOP_TOKEN_IDS=f"[{BEAM_STOP}]",
    )
    yield servable
    servable.check_integrity()
    servable.unload()


def test_beams_are_those_of_brute_force(
    checkpoint: tuple[str, str], greedy: LmServable, beams: LmServable
) -> None:
    """The brute force asks the same model for one next-token distribution at a time, by scoring
    every token."""
    golden = np.load(GOLDEN / checkpoint[0] / "golden.npz")
    prompt = golden["prompt_1"]
    vocab = golden["logits_0"].shape[1]
    found = pairs(beams.generate(text(prompt), common_pb2.ExtraInputs(), NEVER, ignore))
    known: dict[tuple[int, ...], np.ndarray] = {}

    def logits_of(tokens: list[int]) -> np.ndarray:
        if tuple(tokens) not in known:
            prefix = text(np.append(prompt, np.array(tokens, np.int32)))
            logp: list[float] = []
            for first in range(0, vocab, 64):
                suffixes = [str(t) for t in range(first, min(vocab, first + 64))]
                logp += greedy.score(prefix, suffixes, common_pb2.ExtraInputs(), NEVER, ignore)
            known[tuple(tokens)] = np.array(logp, np.float32)
        return known[tuple(tokens)]

    wanted = beam_search(
        logits_of,
        beam_size=3,
        tokens_per_beam=3,
        alpha=0.5,
        min_steps=1,
        max_steps=BEAM_STEPS,
        stop_ids=[BEAM_STOP],
        early_exit=False,
    )
    assert [answer for answer, _ in found] == [",".join(map(str, tokens)) for tokens, _ in wanted]
    assert [s for _, s in found] == pytest.approx([s for _, s in wanted], abs=1e-3)


def test_stream_adds_up_to_the_answer(checkpoint: tuple[str, str], greedy: LmServable) -> None:
    prompt = text(np.load(GOLDEN / checkpoint[0] / "golden.npz")["prompt_2"])
    (answer,) = pairs(greedy.generate(prompt, common_pb2.ExtraInputs(), NEVER, ignore))
    stream = list(changes(greedy.generate_stream(prompt, common_pb2.ExtraInputs(), NEVER, ignore)))
    (found,) = put_together(stream)
    assert found[0] == answer[0]
    assert found[1] == pytest.approx(answer[1], abs=1e-4)
    assert len(stream) > 10


def test_stream_of_beams_ends_with_the_answer(beams: LmServable) -> None:
    stream = list(changes(beams.generate_stream("5,6,7", common_pb2.ExtraInputs(), NEVER, ignore)))
    found = put_together(stream)
    wanted = pairs(beams.generate("5,6,7", common_pb2.ExtraInputs(), NEVER, ignore))
    assert [answer for answer, _ in found] == [answer for answer, _ in wanted]
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted], rel=1e-12)
    assert len(stream) == BEAM_STEPS
    # All but the best one so far are shown from the first step on.
    assert all(new for new, _, _ in stream[0])


@pytest.fixture(scope="module")
def speaking(
    checkpoint: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LmServable]:
    """The ids are bytes: most of what the model says is not even UTF-8."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet[:200])}
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    path.write_text(byte_level_bpe(vocabulary, [], single_digits=False).to_str())
    servable = load(
        "auto.AutoLM",
        checkpoint[1],
        TOKENIZED_INPUT="false",
        TOKENIZED_OUTPUT="false",
        VOCABULARY_PATH=f'"{path}"',
        MAX_DECODE_STEPS="32",
        BATCH_SIZE="4",
        STREAM_INTERVAL_STEPS="3",
        STOP_TOKEN_IDS="[0]",
        STOP_STRINGS='["never said"]',
    )
    yield servable
    assert servable.wait_until_idle(10)
    servable.unload()


def test_stop_string_ends_answers_and_streams_alike(speaking: LmServable) -> None:
    sampled = {"temperature": 1.0, "seed": 5}

    def ask(stop: str) -> common_pb2.ExtraInputs:
        return common_pb2.ExtraInputs(items=sampled, strings={"stop": stop})

    ((whole, score),) = pairs(speaking.generate("Hello", ask(""), NEVER, ignore))
    assert len(whole) > 12
    for stop in (whole[5:7], whole[:1], whole[9:12] + "\n" + whole[2:4], "\ufffe"):
        if "" in stop.split("\n"):
            continue
        found = pairs(speaking.generate("Hello", ask(stop), NEVER, ignore))
        places = [whole.find(s) for s in stop.split("\n")]
        wanted = whole[: min((p for p in places if p >= 0), default=len(whole))]
        assert found[0][0] == wanted
        assert found[0][1] > score or wanted == whole
        streamed = ""
        messages = list(changes(speaking.generate_stream("Hello", ask(stop), NEVER, ignore)))
        for ((new, kept, _),) in messages:
            assert kept == len(streamed)
            streamed += new
        assert streamed == wanted
        assert put_together(messages)[0][1] == pytest.approx(found[0][1], abs=1e-4)


def test_stream_sends_a_message_every_interval(speaking: LmServable) -> None:
    extra = common_pb2.ExtraInputs(items={"per_example_max_decode_steps": 7})
    # After the third and the sixth step, and at the end.
    assert len(list(changes(speaking.generate_stream("Hello", extra, NEVER, ignore)))) == 3


def test_client_that_goes_away_ends_its_request(greedy: LmServable) -> None:
    def go_away(cancel: Callable[[], None]) -> None:
        threading.Timer(0.005, cancel).start()

    # It may also be quicker than the timer.
    with contextlib.suppress(errors.CancelledError):
        greedy.generate("1,2,3", common_pb2.ExtraInputs(), NEVER, go_away)
    assert greedy.stats["lm.generate"].to_proto().pending_reqs == 0


@pytest.mark.parametrize(
    ("prompt", "extra", "message"),
    [
        ("1,2,three", {}, "three"),
        ("1,99999", {}, "outside the vocabulary"),
        (text(np.ones(65, np.int32)), {}, "at most 64"),
        ("1", {"nonsense": 1.0}, "not declared"),
        ("1", {"temperature": -1.0}, "temperature"),
    ],
)
def test_bad_request_is_refused(
    greedy: LmServable, prompt: str, extra: dict[str, float], message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        greedy.generate(prompt, common_pb2.ExtraInputs(items=extra), NEVER, ignore)


def test_stop_string_for_a_model_of_ids_is_refused(greedy: LmServable) -> None:
    extra = common_pb2.ExtraInputs(strings={"stop": "END"})
    with pytest.raises(errors.InvalidArgumentError, match="stop is given and AutoLM answers with"):
        greedy.generate("1", extra, NEVER, ignore)


def test_method_that_is_not_offered_is_refused(checkpoint: tuple[str, str]) -> None:
    servable = load(
        "auto.AutoLM", checkpoint[1], SCORE_ONLY="true", BATCH_SIZE="1", MAX_DECODE_STEPS="4"
    )
    with pytest.raises(errors.InvalidArgumentError, match=r"does not offer lm\.generate"):
        servable.generate("1", common_pb2.ExtraInputs(), NEVER, ignore)
    servable.unload()


def test_too_few_pages_are_refused_before_weights_are_read(
    checkpoint: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(loading, "_weights", read)
    with pytest.raises(errors.ResourceExhaustedError, match="KV_CACHE_GIB"):
        load("auto.AutoLM", checkpoint[1], MAX_DECODE_STEPS="32", KV_CACHE_GIB="0.0000001")


@pytest.mark.parametrize(
    ("path", "place", "overrides", "error", "message"),
    [
        ("auto.AutoLM", "{}/nope", {}, errors.NotFoundError, "nope"),
        ("auto.AutoLM", "None", {}, errors.InvalidArgumentError, "RANDOM_WEIGHTS"),
        ("gptj.GPTJ", "{}", {}, errors.SaxError, r"has no array|has shape"),
        (
            "auto.AutoLM",
            "{}",
            {"KV_CACHE_GIB": "0.0000001"},
            errors.ResourceExhaustedError,
            "KV_CACHE_GIB",
        ),
        ("auto.AutoLM", "{}", {"APPLY_CHAT_TEMPLATE": "true"}, errors.SaxError, "is for text"),
        ("auto.AutoLM", "{}", {"STOP_STRINGS": '["END"]'}, errors.SaxError, "TOKENIZED_OUTPUT"),
        ("auto.AutoLM", "{}", {"STOP_TOKEN_IDS": "[9999]"}, errors.SaxError, "stop token 9999"),
        ("auto.AutoLM", "{}", {"TOKENIZED_INPUT": "false"}, errors.SaxError, "VOCABULARY_PATH"),
        (
            "auto.AutoLM",
            "{}",
            {"USE_BEAM_SEARCH": "true", "TOKENS_PER_BEAM": "9999"},
            errors.InvalidArgumentError,
            "TOKENS_PER_BEAM",
        ),
    ],
)
def test_bad_load_says_what_is_wrong(
    checkpoint: tuple[str, str],
    path: str,
    place: str,
    overrides: dict[str, str],
    error: type[errors.SaxError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        load(path, place.format(checkpoint[1]), MAX_DECODE_STEPS="8", **overrides)
