"""Perplexities: of windows, scored by an engine, and compared window by window."""

import math
import pathlib

import numpy as np
import pytest

from tools.bench import perplexity
from tools.convert.gptj import convert_gptj

GOLDEN = pathlib.Path("tests/golden/tiny_gptj")


def test_ratio_and_its_error_are_those_of_the_same_windows() -> None:
    reference = np.array([[1.0, 3.0], [2.0, 4.0], [0.0, 2.0]])
    found = perplexity.compare(reference + math.log(1.5), reference)
    assert found.perplexity == pytest.approx(1.5 * math.exp(2))
    assert found.ratio == pytest.approx(1.5)
    assert found.error == pytest.approx(0, abs=1e-9)
    changed = reference + np.array([[0.1], [0.0], [-0.1]])
    compared = perplexity.compare(changed, reference)
    assert compared.ratio == pytest.approx(1)
    assert compared.error == pytest.approx(0.1 / math.sqrt(3))


def test_losses_are_those_of_hugging_face(tmp_path: pathlib.Path) -> None:
    checkpoint = convert_gptj(str(GOLDEN), str(tmp_path))
    golden = np.load(GOLDEN / "golden.npz")
    ids, logits = golden["prompt_2"].astype(np.int32), golden["logits_2"].astype(np.float64)
    wanted = np.log(np.exp(logits).sum(-1))[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
    (found,) = perplexity.losses(checkpoint, ids[None], "float32")
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_unknown_weights_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        perplexity.main(["perplexity", "--checkpoint=none", "--weights=float32,int4"])
    assert "'int4' is none of float32, bfloat16, int8, stored" in capsys.readouterr().err


def test_default_text_is_long_enough() -> None:
    assert len(perplexity.default_text()) > 300_000
