"""Whatever goes wrong with one request concerns it alone: others' answers are the same, all pages
come back, and the model goes on."""

import math
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tokenizers

from saxml.common import errors
from saxml.common.clock import SystemClock
from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import SampleDecoder
from saxml.proto import common_pb2
from saxml.server import configs, generate_inputs, registry
from saxml.server.answers import Answers
from saxml.server.generation import Generation
from saxml.server.loading import LoadOptions
from saxml.server.servable_model import LmServable
from saxml.server.text_codec import TextCodec
from saxml.tokenizer.bpe import byte_level_bpe
from tests.unit.server.messages import changes, pairs
from tools.convert.llama import convert_llama

PROMPTS = ["Hello", "one two", "abc"]
BAD = "bad"
configs.import_all()


def ignore(cancel: Callable[[], None]) -> None:
    """For callers that never go away."""


@pytest.fixture(scope="module", params=["samples", "beams"])
def servable(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LmServable]:
    folder = tmp_path_factory.mktemp("pax")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet[:200])}
    path = pathlib.Path(folder) / "tokenizer.json"
    path.write_text(byte_level_bpe(vocabulary, [], single_digits=False).to_str())
    overrides = {
        "VOCABULARY_PATH": f'"{path}"',
        "INPUT_SEQ_LEN": "64",
        "MAX_DECODE_STEPS": "16",
        "BATCH_SIZE": "4",
        "STOP_TOKEN_IDS": "[0]",
    }
    overrides |= {
        "samples": {"NUM_SAMPLES": "2", "STOP_STRINGS": '["never said"]'},
        "beams": {"USE_BEAM_SEARCH": "true", "BEAM_SIZE": "2"},
    }[request.param]
    params = registry.resolve("saxml.server.pax.lm.params.auto.AutoLM")(overrides)
    checkpoint = convert_llama("tests/golden/tiny_llama", str(folder / "weights"))
    found = LmServable.load("/sax/test/m", params, checkpoint, LoadOptions(), SystemClock())
    yield found
    found.unload()


def texts(servable: LmServable, prompt: str, *, stream: bool) -> list[str]:
    extra, never = common_pb2.ExtraInputs(), math.inf
    if not stream:
        return [text for text, _ in pairs(servable.generate(prompt, extra, never, ignore))]
    found = ["", ""]
    for items in changes(servable.generate_stream(prompt, extra, never, ignore)):
        found = [t[:kept] + new for t, (new, kept, _) in zip(found, items, strict=True)]
    return found


def broken(real: Callable[..., Any], *, after: int = 0) -> Callable[..., Any]:
    """Raises from the call behind so many others on, for the request whose owner is BAD."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if threading.current_thread().name == BAD:
            calls += 1
            if calls > after:
                raise RuntimeError("this is broken")
        return real(*args, **kwargs)

    return call


def broken_decoder(method: str, after: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The decoder of BAD raises in the engine's thread."""

    def patched(real: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            decoder = real(*args, **kwargs)
            if threading.current_thread().name != BAD:
                return decoder
            kind: type[Any] = BeamDecoder if isinstance(decoder, BeamDecoder) else SampleDecoder
            calls = 0

            def fail(self: Any, *args: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > after:
                    raise RuntimeError("this is broken")
                return getattr(kind, method)(self, *args)

            decoder.__class__ = type("Broken", (kind,), {method: fail})
            return decoder

        return make

    return patched


CASES = [
    (generate_inputs.GenerateInputs, "parse", broken, None),
    (TextCodec, "prompt", broken, None),
    (Generation, "_decoder", broken, None),
    (Generation, "_decoder", broken_decoder("step", 0), "INTERNAL"),
    (Generation, "_decoder", broken_decoder("step", 3), "INTERNAL"),
    (Generation, "_decoder", broken_decoder("results", 0), "INTERNAL"),
    (Answers, "update", broken, None),
    (Answers, "finish", broken, None),
    (Generation, "_score", broken, None),
]
IN_STREAMS = [
    (Answers, "changes", broken, None),
    (Answers, "changes", lambda real: broken(real, after=2), None),
]


@pytest.mark.parametrize(
    ("stream", "place", "name", "patch", "code"),
    [(False, *case) for case in CASES] + [(True, *case) for case in CASES + IN_STREAMS],
)
def test_request_that_breaks_fails_alone(
    servable: LmServable,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
    place: Any,
    name: str,
    patch: Callable[..., Any],
    code: str | None,
) -> None:
    wanted = [texts(servable, prompt, stream=stream) for prompt in PROMPTS]
    monkeypatch.setattr(place, name, patch(getattr(place, name)))
    found: dict[str, list[str]] = {}
    failures: list[BaseException] = []

    def good(prompt: str) -> None:
        found[prompt] = texts(servable, prompt, stream=stream)

    def bad() -> None:
        try:
            texts(servable, "this one", stream=stream)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=bad, name=BAD)]
    threads += [threading.Thread(target=good, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[prompt] for prompt in PROMPTS] == wanted
    (failure,) = failures
    assert "this is broken" in str(failure)
    if code is not None:
        assert isinstance(failure, errors.SaxError)
        assert failure.code.name == code
    check_all_is_back(servable)


def check_all_is_back(servable: LmServable) -> None:
    engine = servable._engine
    assert servable.failure is None
    assert servable.wait_until_idle(0)
    # What was given up is dropped in the next step.
    texts(servable, "x", stream=False)
    assert engine.pending == 0
    assert engine.gauges().used_pages == 0
    engine.check_integrity()


def test_stream_that_nobody_reads_on_gives_its_pages_back(servable: LmServable) -> None:
    stream: Any = servable.generate_stream("Hello", common_pb2.ExtraInputs(), math.inf, ignore)
    next(stream)
    stream.close()
    check_all_is_back(servable)
