"""Converted and restored, the tiny checkpoints give the numbers that Hugging Face computed."""

import pathlib

import numpy as np
import pytest

from saxml.checkpoint.record import read_record
from saxml.models.config import ModelConfig
from saxml.ops.backend import PLAIN, Backend
from tests.golden.forward import prompt_logits
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

HERE = pathlib.Path(__file__).parent
MODELS = {
    "tiny_gptj": convert_gptj,
    "tiny_llama": convert_llama,
    "tiny_llama_tied": convert_llama,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> tuple[str, str]:
    return request.param, MODELS[request.param](str(HERE / request.param), str(tmp_path))


@pytest.mark.parametrize("backend", [PLAIN, Backend("float32")], ids=["plain", "kernels"])
def test_logits_and_greedy_ids_are_those_of_hugging_face(
    model: tuple[str, str], backend: Backend
) -> None:
    name, path = model
    _, record = read_record(path)
    golden = np.load(HERE / name / "golden.npz")
    compute = prompt_logits(record.config, path, 64, backend)
    for index in range(3):
        prompt, greedy = golden[f"prompt_{index}"], golden[f"greedy_{index}"]
        # 1e-4: sums of 32 to 128 float32 products of unit size, in another order.
        np.testing.assert_allclose(compute(prompt), golden[f"logits_{index}"], rtol=1e-5, atol=1e-4)
        whole = np.concatenate([prompt, greedy])
        chosen = compute(whole[:-1])[len(prompt) - 1 :].argmax(-1)
        np.testing.assert_array_equal(chosen, greedy)


def test_rotary_style_is_recorded_and_matters(model: tuple[str, str]) -> None:
    name, path = model
    _, record = read_record(path)
    assert record.config.rotary_style == ("pairs" if name == "tiny_gptj" else "halves")
    other = {"pairs": "halves", "halves": "pairs"}[record.config.rotary_style]
    fields = record.config.to_json() | {"rotary_style": other}
    golden = np.load(HERE / name / "golden.npz")
    got = prompt_logits(ModelConfig.from_json(fields), path, 64)(golden["prompt_2"])
    assert np.abs(got - golden["logits_2"]).max() > 0.1
