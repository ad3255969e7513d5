"""Methods that answer with numbers, on converted checkpoints: scores, embeddings and gradients are
those of Hugging Face and torch."""

import math
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from saxml.common import errors
from saxml.common.clock import SystemClock
from saxml.proto import common_pb2
from saxml.server import configs, registry
from saxml.server.loading import LoadOptions
from saxml.server.servable_model import LmServable
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

GOLDEN = pathlib.Path("tests/golden")
NEVER = math.inf
NOTHING = common_pb2.ExtraInputs()
EOS = 7
SIZES = {
    "TOKENIZED_INPUT": "true",
    "TOKENIZED_OUTPUT": "true",
    "INPUT_SEQ_LEN": "24",
    "SUFFIX_SEQ_LEN": "12",
    "MAX_DECODE_STEPS": "4",
    "PAGE_SIZE": "4",
    "BATCH_SIZE": "4",
    "GRADIENT_WRT_INPUT_TENSOR_NAMES": '["embeddings"]',
}
# Log-probabilities as they are; the mean of the hidden states.
PLAIN = {
    "EMBEDDING_POOLING": '"mean"',
    "GRADIENT_WRT_MDL_VAR_TENSOR_NAMES": '["params/lm/final_ln/scale"]',
}
# With the end, as a mean; the last hidden state, with length 1.
SCALED = {
    "SCORING_INCLUDE_EOS_SCORE": "true",
    "SCORING_USE_GEOMEAN_PROB_SCORE": "true",
    "EOS_ID": str(EOS),
    "EMBEDDING_NORMALIZE": "true",
}
configs.import_all()


def ignore(cancel: Callable[[], None]) -> None:
    """For callers that never go away."""


def load(checkpoint: str, **overrides: str) -> LmServable:
    params = registry.resolve("saxml.server.pax.lm.params.auto.AutoLM")({**SIZES, **overrides})
    return LmServable.load("/sax/test/m", params, checkpoint, LoadOptions(), SystemClock())


def text(ids: np.ndarray) -> str:
    return ",".join(str(i) for i in ids.tolist())


class Golden:
    """What Hugging Face says of a prompt, cut into prefix and suffix."""

    def __init__(self, name: str) -> None:
        self.derivatives = np.load(GOLDEN / name / "derivatives.npz")
        logits = np.load(GOLDEN / name / "golden.npz")["logits_2"].astype(np.float64)
        self.logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        self.prefix, self.suffix = self.derivatives["prefix"], self.derivatives["suffix"]

    def score(self, suffix: np.ndarray) -> float:
        """log p of what the suffix begins with."""
        first = len(self.prefix) - 1
        return float(sum(self.logp[first + i, token] for i, token in enumerate(suffix)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return convert_llama(str(GOLDEN / "tiny_llama"), str(tmp_path_factory.mktemp("pax")))


@pytest.fixture(scope="module")
def plain(llama: str) -> Iterator[tuple[LmServable, Golden]]:
    servable = load(llama, **PLAIN)
    yield servable, Golden("tiny_llama")
    servable.check_integrity()
    servable.unload()


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LmServable, Golden]]:
    folder = str(tmp_path_factory.mktemp("pax"))
    servable = load(convert_gptj(str(GOLDEN / "tiny_gptj"), folder), **SCALED)
    yield servable, Golden("tiny_gptj")
    servable.check_integrity()
    servable.unload()


def test_suffixes_of_one_prefix_compute_its_full_pages_once(
    plain: tuple[LmServable, Golden],
) -> None:
    servable, golden = plain
    suffixes = [golden.suffix[:n] for n in (8, 1, 5, 2, 8, 3, 7)]
    before = servable.gauges()
    found = servable.score(text(golden.prefix), [*map(text, suffixes)], NOTHING, NEVER, ignore)
    # 1e-3: sums of up to eight terms that are known to 1e-4.
    assert found == pytest.approx([*map(golden.score, suffixes)], abs=1e-3)
    after = servable.gauges()
    asked = after.prefix_queried_tokens - before.prefix_queried_tokens
    assert asked == sum(len(golden.prefix) + len(s) - 1 for s in suffixes)
    # Of 15 tokens the last one predicts the suffix; the 14 before it fill three pages of four. The
    # first suffix computes them, the six others find them.
    assert after.prefix_hit_tokens - before.prefix_hit_tokens == 6 * 12


def test_score_of_the_end_too_and_its_geometric_mean(scaled: tuple[LmServable, Golden]) -> None:
    servable, golden = scaled
    suffixes = [golden.suffix, golden.suffix[:3], golden.suffix[:0]]
    wanted = []
    for suffix in suffixes:
        last = len(golden.prefix) + len(suffix) - 1
        total = golden.score(suffix) + golden.logp[last, EOS]
        wanted.append(math.exp(total / (len(suffix) + 1)))
    found = servable.score(text(golden.prefix), [*map(text, suffixes)], NOTHING, NEVER, ignore)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_embedding_is_the_mean_of_hugging_faces_hidden_states(
    plain: tuple[LmServable, Golden],
) -> None:
    servable, golden = plain
    whole = np.concatenate([golden.prefix, golden.suffix])
    found = servable.embed(text(whole), NOTHING, NEVER, ignore)
    np.testing.assert_allclose(found, golden.derivatives["hidden"].mean(0), rtol=1e-5, atol=1e-4)


def test_embedding_is_the_last_hidden_state_with_length_one(
    scaled: tuple[LmServable, Golden],
) -> None:
    servable, golden = scaled
    whole = np.concatenate([golden.prefix, golden.suffix])
    found = servable.embed(text(whole), NOTHING, NEVER, ignore)
    last = golden.derivatives["hidden"][-1]
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found, last / np.linalg.norm(last), atol=1e-5)


def test_gradient_is_that_of_torch(plain: tuple[LmServable, Golden]) -> None:
    servable, golden = plain
    found = servable.gradient(text(golden.prefix), text(golden.suffix), NOTHING, NEVER, ignore)
    assert found.score == pytest.approx(float(golden.derivatives["score"]), abs=1e-3)
    wanted = {
        "gradients/inputs/embeddings": golden.derivatives["inputs"],
        "gradients/mdl_vars/params/lm/final_ln/scale": golden.derivatives["model.norm.weight"],
    }
    assert sorted(found.tensors) == sorted(wanted)
    for name, tensor in wanted.items():
        tolerance = 1e-4 * np.abs(tensor).max()
        np.testing.assert_allclose(found.tensors[name], tensor, atol=tolerance)


def test_gradient_is_of_what_is_scored(scaled: tuple[LmServable, Golden]) -> None:
    servable, golden = scaled
    texts = text(golden.prefix), text(golden.suffix)
    (score,) = servable.score(texts[0], [texts[1]], NOTHING, NEVER, ignore)
    found = servable.gradient(*texts, NOTHING, NEVER, ignore)
    assert found.score == pytest.approx(score, rel=1e-4)
    rows = len(golden.prefix) + len(golden.suffix)
    assert found.tensors["gradients/inputs/embeddings"].shape == (rows, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.embed("", NOTHING, NEVER, ignore), "the text is empty"),
        (lambda m: m.embed("é", NOTHING, NEVER, ignore), "comma-separated token ids"),
        (lambda m: m.embed(text(np.ones(25, np.int32)), NOTHING, NEVER, ignore), "at most 24"),
        (lambda m: m.score("1", [], NOTHING, NEVER, ignore), "no suffix to score"),
        (lambda m: m.score("1", ["2", ""], NOTHING, NEVER, ignore), "a suffix is empty"),
        (lambda m: m.score("1", ["日本"], NOTHING, NEVER, ignore), "comma-separated token ids"),
        (
            lambda m: m.score("1", [text(np.ones(13, np.int32))], NOTHING, NEVER, ignore),
            r"13 tokens; this model takes at most 12 \(SUFFIX_SEQ_LEN\)",
        ),
        (lambda m: m.gradient("1", "", NOTHING, NEVER, ignore), "a suffix is empty"),
        (
            lambda m: m.gradient(text(np.ones(25, np.int32)), "1", NOTHING, NEVER, ignore),
            "at most 24",
        ),
        (
            lambda m: m.embed("1", common_pb2.ExtraInputs(items={"top_k": 1}), NEVER, ignore),
            "'top_k' is not declared by this method; it takes: cache_salt, priority",
        ),
        (
            lambda m: m.gradient(
                "1", "2", common_pb2.ExtraInputs(items={"priority": 1}), NEVER, ignore
            ),
            "'priority' is not declared by this method; it takes: none",
        ),
    ],
)
def test_bad_request_is_refused(
    plain: tuple[LmServable, Golden], call: Callable[[LmServable], object], message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        call(plain[0])


def test_late_request_is_given_up(plain: tuple[LmServable, Golden]) -> None:
    servable = plain[0]
    for call in (
        lambda: servable.embed("1,2", NOTHING, time.monotonic() - 1, ignore),
        lambda: servable.gradient("1,2", "3", NOTHING, time.monotonic() - 1, ignore),
    ):
        with pytest.raises(errors.DeadlineExceededError):
            call()


def test_client_that_goes_away_ends_what_waits(plain: tuple[LmServable, Golden]) -> None:
    """The first gradient holds the thread; the second one's client leaves."""
    servable = plain[0]
    differentiator = servable._differentiator
    assert differentiator is not None
    gate = threading.Event()
    differentiator._thread.submit(gate.wait, 60)
    with pytest.raises(errors.CancelledError):
        servable.gradient("1,2", "3", NOTHING, NEVER, lambda cancel: cancel())
    with pytest.raises(errors.CancelledError):
        servable.embed("1,2", NOTHING, NEVER, lambda cancel: cancel())
    gate.set()
    assert servable.gradient("1,2", "3", NOTHING, NEVER, ignore).tensors


def test_methods_are_offered_as_configured(llama: str) -> None:
    off = {
        "GRADIENT_WRT_INPUT_TENSOR_NAMES": "null",
        "TEXT_TO_EMBEDDING_MODEL_METHOD_NAME": "null",
        "TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME": "null",
    }
    servable = load(llama, **off)
    assert sorted(servable.stats) == ["lm.generate", "lm.generate_stream", "lm.score"]
    with pytest.raises(errors.InvalidArgumentError, match=r"does not offer lm\.embed; it offers"):
        servable.embed("1", NOTHING, NEVER, ignore)
    with pytest.raises(errors.InvalidArgumentError, match=r"does not offer lm\.gradient"):
        servable.gradient("1", "2", NOTHING, NEVER, ignore)
    servable.unload()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"GRADIENT_WRT_INPUT_TENSOR_NAMES": '["ids"]'}, "'ids' is not 'embeddings'"),
        (
            {"GRADIENT_WRT_MDL_VAR_TENSOR_NAMES": '["params/lm/final_ln/scales"]'},
            "has no 'params/lm/final_ln/scales'; it has params/lm/final_ln/scale",
        ),
        ({"SUFFIX_SEQ_LEN": "200", "INPUT_SEQ_LEN": "1"}, "INPUT_SEQ_LEN 1 and SUFFIX_SEQ_LEN 200"),
    ],
)
def test_bad_load_says_what_is_wrong(llama: str, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        load(llama, **overrides)
