"""Converted and restored, the tiny checkpoints give the numbers that Hugging Face computed."""

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml.checkpoint import pax
from saxml.checkpoint.record import read_record
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.ops import attention
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

HERE = pathlib.Path(__file__).parent
PAGE = 16
PAGES = 4
MODELS = {
    "tiny_gptj": convert_gptj,
    "tiny_llama": convert_llama,
    "tiny_llama_tied": convert_llama,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> tuple[str, str]:
    return request.param, MODELS[request.param](str(HERE / request.param), str(tmp_path))


def prompt_logits(config: ModelConfig, path: str) -> Callable[[np.ndarray], np.ndarray]:
    """The model as a function of one prompt, i32[n] -> f32[n, V], n at most PAGE * PAGES."""
    family = registry.family(config)
    weights = family.prepare(config, pax.restore(path, registry.parameters(config)))
    T = PAGE * PAGES

    @jax.jit
    def run(tokens: jax.Array, length: jax.Array) -> jax.Array:
        positions = jnp.arange(T, dtype=jnp.int32)
        batch = attention.RaggedBatch(
            slots=jnp.where(positions < length, positions, T),
            q_start=jnp.stack([jnp.int32(0), length]),
            kv_len=length[None],
            page_table=jnp.arange(PAGES, dtype=jnp.int32)[None],
            num_rows=jnp.int32(1),
            num_decode_rows=jnp.int32(0),
        )
        pages = attention.make_pages(
            config.num_layers, PAGES, PAGE, config.num_kv_heads, config.head_dim, jnp.float32
        )
        hidden, _ = family.forward(config, weights, tokens, positions, pages, batch)
        return family.logits(config, weights, hidden)

    def call(prompt: np.ndarray) -> np.ndarray:
        tokens = np.zeros(T, np.int32)
        tokens[: len(prompt)] = prompt
        return np.asarray(run(tokens, jnp.int32(len(prompt))))[: len(prompt)]

    return call


def test_logits_and_greedy_ids_are_those_of_hugging_face(model: tuple[str, str]) -> None:
    name, path = model
    _, record = read_record(path)
    golden = np.load(HERE / name / "golden.npz")
    compute = prompt_logits(record.config, path)
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
    got = prompt_logits(ModelConfig.from_json(fields), path)(golden["prompt_2"])
    assert np.abs(got - golden["logits_2"]).max() > 0.1
