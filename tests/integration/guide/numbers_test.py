"""Scores, embeddings and gradients through the whole cell: saxutil and `import sax` answer the
numbers of Hugging Face and torch, beside a stream."""

import asyncio
import concurrent.futures
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import sax
from saxml.common import errors
from tests.integration.guide.cell import MODEL, SIZES, Cell, joined_cell

GOLDEN = pathlib.Path("tests/golden/tiny_gptj")
WEIGHT = "params/lm/final_ln/scale"
INPUTS_KEY, WEIGHT_KEY = "gradients/inputs/embeddings", "gradients/mdl_vars/" + WEIGHT
OFFERED = [
    'TEXT_TO_EMBEDDING_MODEL_METHOD_NAME="__call__"',
    'TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME="last_hidden_state"',
    'GRADIENT_WRT_INPUT_TENSOR_NAMES=["embeddings"]',
    f'GRADIENT_WRT_MDL_VAR_TENSOR_NAMES=["{WEIGHT}"]',
    "USE_BEAM_SEARCH=false",
    "ENABLE_GENERATE_STREAM=true",
    # A stop token that never comes, for a stream of all its steps.
    "STOP_TOKEN_IDS=[210]",
]
# What is computed there in one order is computed here in another.
ATOL = 1e-3


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    with joined_cell(tmp_path_factory.mktemp("cell")) as (cell, server):
        cell.publish(cell.convert(), *SIZES, *OFFERED)
        server.wait_for(r"loading completed\.", 240)
        yield cell


@pytest.fixture
def model(cell: Cell) -> Iterator[sax.Model]:
    options = sax.Options()
    options.sax_root = cell.root
    with sax.Model(MODEL, options) as model:
        yield model


def text(ids: np.ndarray) -> str:
    return ",".join(str(i) for i in ids.tolist())


class Wanted:
    """What Hugging Face and torch say."""

    def __init__(self) -> None:
        golden: Mapping[str, Any] = np.load(GOLDEN / "derivatives.npz")
        self.prefix, self.suffix = text(golden["prefix"]), text(golden["suffix"])
        self.whole = f"{self.prefix},{self.suffix}"
        self.embedding = golden["hidden"][-1]
        self.score = float(golden["score"])
        self.tensors = {
            INPUTS_KEY: golden["inputs"].ravel(),
            WEIGHT_KEY: golden["transformer.ln_f.weight"],
        }

    def check(self, scores: list[float], gradients: Mapping[str, list[float]]) -> None:
        assert scores == pytest.approx([self.score], abs=ATOL)
        assert sorted(gradients) == sorted(self.tensors)
        for name, tensor in self.tensors.items():
            tolerance = 1e-4 * float(np.abs(tensor).max())
            np.testing.assert_allclose(gradients[name], tensor, atol=tolerance)


WANTED = Wanted()


def said(cell: Cell, *arguments: str) -> str:
    done = cell.saxutil(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_saxutil_embeds_a_text(cell: Cell) -> None:
    found = json.loads(said(cell, "-format=json", "lm.embed", MODEL, WANTED.whole))
    assert found["text"] == WANTED.whole
    np.testing.assert_allclose(found["embedding"], WANTED.embedding, atol=ATOL)
    table = said(cell, "lm.embed", MODEL, WANTED.whole).splitlines()
    assert re.fullmatch(r"\| +TEXT +\| +EMBEDDING +\|", table[1])
    shown = " ".join(line.split("|")[2].strip() for line in table[3:-1])
    assert shown == ", ".join(f"{value:.8G}" for value in found["embedding"])


def test_saxutil_gives_a_gradient(cell: Cell) -> None:
    texts = WANTED.prefix, WANTED.suffix
    found = json.loads(said(cell, "-format=json", "lm.gradient", MODEL, *texts))
    WANTED.check(found["scores"], found["gradients"])
    table = said(cell, "lm.gradient", MODEL, *texts).splitlines()
    header = [cell.strip() for cell in table[1].split("|")[1:-1]]
    assert header == ["SCORE", INPUTS_KEY.upper(), WEIGHT_KEY.upper().replace("_", " ")]
    for place, name in ((1, INPUTS_KEY), (2, WEIGHT_KEY)):
        lines = [line.split("|")[1 + place].strip() for line in table[3:-1]]
        first = ", ".join(f"{value:.8G}" for value in found["gradients"][name][:8])
        assert " ".join(filter(None, lines)) == first + ", ..."


def test_saxutil_scores_many_suffixes(cell: Cell) -> None:
    suffixes = [WANTED.suffix, WANTED.suffix.partition(",")[0]]
    found = json.loads(said(cell, "-format=json", "lm.score", MODEL, WANTED.prefix, *suffixes))
    assert [row["suffix"] for row in found] == suffixes
    assert found[0]["scores"] == pytest.approx([WANTED.score], abs=ATOL)
    assert 0 > found[1]["scores"][0] > WANTED.score


def test_python_embeds_and_differentiates(model: sax.Model) -> None:
    lm = model.LM()
    np.testing.assert_allclose(lm.Embed(WANTED.whole), WANTED.embedding, atol=ATOL)
    WANTED.check(*lm.Gradient(WANTED.prefix, WANTED.suffix))


def test_asyncio_embeds_and_differentiates(cell: Cell) -> None:
    async def ask() -> tuple[list[float], tuple[list[float], dict[str, list[float]]]]:
        options = sax.Options()
        options.sax_root = cell.root
        async with sax.aio.Model(MODEL, options) as model:
            lm = model.LM()
            return await asyncio.gather(
                lm.Embed(WANTED.whole), lm.Gradient(WANTED.prefix, WANTED.suffix)
            )

    embedding, gradient = asyncio.run(ask())
    np.testing.assert_allclose(embedding, WANTED.embedding, atol=ATOL)
    WANTED.check(*gradient)


def test_streams_and_numbers_do_not_change_one_another(model: sax.Model) -> None:
    lm = model.LM()
    greedy = sax.ModelOptions()
    greedy.SetExtraInput("temperature", 0)

    def stream() -> str:
        parts: list[str] = []

        def take(last: bool, items: list[tuple[str, int, list[float]]]) -> None:
            parts.extend(new for new, _, _ in items)

        lm.GenerateStream(WANTED.prefix, take, greedy)
        return "".join(parts)

    alone = stream()
    assert len(alone.split(",")) == 16
    with concurrent.futures.ThreadPoolExecutor() as threads:
        streams = [threads.submit(stream) for _ in range(3)]
        gradients = [threads.submit(lm.Gradient, WANTED.prefix, WANTED.suffix) for _ in range(3)]
        embeddings = [threads.submit(lm.Embed, WANTED.whole) for _ in range(3)]
        assert [s.result(60) for s in streams] == [alone] * 3
        for gradient in gradients:
            WANTED.check(*gradient.result(60))
        for embedding in embeddings:
            np.testing.assert_allclose(embedding.result(60), WANTED.embedding, atol=ATOL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lm.embed", MODEL, "1,211"), "outside the vocabulary of 211"),
        (("lm.embed", MODEL, "Zürich"), "comma-separated token ids"),
        (("lm.embed", MODEL, ",".join("1" * 41)), "at most 40"),
        (("lm.embed", "-extra=temperature:1", MODEL, "1"), "'temperature' is not declared"),
        (("lm.gradient", MODEL, "1", ",".join("1" * 60)), "a suffix has 60 tokens"),
        (("lm.gradient", "-extra=tensor:params/lm", MODEL, "1", "2"), "'tensor' is not declared"),
        (("lm.gradient", MODEL, "1", ""), "a suffix is empty"),
    ],
)
def test_bad_request_is_refused(cell: Cell, arguments: tuple[str, ...], message: str) -> None:
    done = cell.saxutil("-sax_timeout=20s", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "code = InvalidArgument" in done.stderr
    assert message in done.stderr


def test_late_answer_is_an_error_and_the_model_goes_on(model: sax.Model) -> None:
    options = sax.ModelOptions()
    options.SetTimeout(0.001)
    with pytest.raises(errors.DeadlineExceededError):
        model.LM().Gradient(WANTED.prefix, WANTED.suffix, options)
    (score,), _ = model.LM().Gradient(WANTED.prefix, WANTED.suffix)
    assert math.isclose(score, WANTED.score, abs_tol=ATOL)
