"""Models published in int8: rounded at load or in the checkpoint, on the kernels and without."""

import pathlib

import numpy as np
import pytest

from saxml import kernels
from saxml.checkpoint import layout, quantised
from saxml.checkpoint.folder import Folder
from saxml.common import errors
from saxml.engine.decoders import ScoreDecoder
from saxml.ops.backend import PLAIN, Backend
from saxml.server.loading import LoadOptions, load
from saxml.server.pax.lm.params.auto import AutoLM
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama
from tools.convert.quantize import quantize

BEST = kernels.levels()[-1]
GOLDEN = pathlib.Path("tests/golden")
MODELS = {"tiny_gptj": convert_gptj, "tiny_llama_tied": convert_llama}


def params(**overrides: str) -> AutoLM:
    sizes = {"BATCH_SIZE": "1", "INPUT_SEQ_LEN": "16", "MAX_DECODE_STEPS": "1", "TOP_K": "1"}
    tokens = {"TOKENIZED_INPUT": "true", "TOKENIZED_OUTPUT": "true"}
    return AutoLM({**sizes, **tokens, "KV_CACHE_GIB": "0.01", **overrides})


def scores(
    checkpoint: str, prompt: np.ndarray, backend: Backend, cpu_kernels: str = BEST, **over: str
) -> np.ndarray:
    """log p of the tokens of a prompt, by an engine that must have this backend."""
    engine = load(params(**over), checkpoint, LoadOptions(cpu_kernels=cpu_kernels)).engine
    try:
        assert engine.options.backend == backend
        decoder = ScoreDecoder(prompt[1:])
        (found,) = engine.submit(prompt[:-1], decoder).future.result(120)
        assert found.logprobs is not None
        return found.logprobs.chosen
    finally:
        engine.stop()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_int8_scores_nearly_as_in_float32(
    name: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = MODELS[name](str(GOLDEN / name), str(tmp_path / "model"))
    small = quantize(checkpoint, str(tmp_path / "small"))
    prompt = np.load(GOLDEN / name / "golden.npz")["prompt_2"][:16].astype(np.int32)
    exact = scores(checkpoint, prompt, Backend("float32"))
    made = scores(checkpoint, prompt, Backend("int8"), WEIGHT_DTYPE='"int8"')
    stored = scores(small, prompt, Backend("int8"))
    # The same integers, the same scales.
    np.testing.assert_array_equal(made, stored)
    # Both sides of a dozen products are rounded to 1/254 of their largest; logits are of size 5.
    np.testing.assert_allclose(made, exact, atol=0.4)
    assert np.abs(made - exact).max() > 0
    plain = scores(small, prompt, PLAIN, cpu_kernels="off")
    np.testing.assert_allclose(plain, exact, atol=0.4)
    assert "matrices are not int8 but floats: CPU kernels only, and they are off" in caplog.text


def test_a_checkpoint_without_its_scales_is_refused(tmp_path: pathlib.Path) -> None:
    checkpoint = convert_gptj(str(GOLDEN / "tiny_gptj"), str(tmp_path / "model"))
    small = quantize(checkpoint, str(tmp_path / "small"))
    scale = quantised.scale_name("lm.transformer.x_layers_0.self_attention.post.w")
    Folder(small).delete_array(layout.array_path(scale))
    for level in (BEST, "off"):
        with pytest.raises(errors.NotFoundError, match=rf"{scale} is not there"):
            load(params(), small, LoadOptions(cpu_kernels=level))


def test_other_kinds_of_weights_are_refused_by_name() -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"WEIGHT_DTYPE=\"int4\": must be one of"):
        AutoLM({"WEIGHT_DTYPE": '"int4"'})
