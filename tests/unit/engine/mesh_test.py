"""The same request on one and on several devices gives the same ids."""

import math

import jax
import numpy as np
import pytest

from saxml.engine.beam import BeamDecoder
from saxml.engine.embedding import EmbedDecoder
from saxml.engine.gradient import Differentiator, GradientOptions
from saxml.models import sharding
from saxml.models.config import ModelConfig
from tests.unit.engine import tiny

BEAMS = tiny.beams(min_steps=1, max_steps=8)

WEIGHTS = (
    "params/lm/transformer/x_layers_1/self_attention/post/w",
    "params/lm/softmax/logits_ffn/linear/w",
)


def answers(config: ModelConfig, mesh_shape: tuple[int, ...]) -> list[list[int]]:
    with tiny.running(config, mesh_shape, buckets=(16,), num_candidates=4) as engine:
        prompts = tiny.prompts(3, seed=9)
        requests = [engine.submit(p, tiny.greedy(8)) for p in prompts]
        requests += [engine.submit(p, BeamDecoder(BEAMS)) for p in prompts]
        return [h.tokens.tolist() for r in requests for h in r.future.result()]


@pytest.mark.parametrize("config", [tiny.GPTJ, tiny.LLAMA], ids=lambda c: c.family)
def test_two_devices_answer_as_one(config: ModelConfig) -> None:
    assert len(jax.devices()) >= 2
    assert answers(config, (1, 1, 2)) == answers(config, (1, 1, 1))


def numbers(config: ModelConfig, mesh_shape: tuple[int, ...]) -> list[np.ndarray]:
    """An embedding, and a score with its gradients."""
    prompt = np.arange(3, 20, dtype=np.int32)
    with tiny.running(config, mesh_shape, buckets=(16,)) as engine:
        decoder = EmbedDecoder(len(prompt), "mean")
        engine.submit(prompt, decoder).future.result()
    mesh = sharding.make_mesh(mesh_shape, jax.devices())
    options = GradientOptions(inputs=("embeddings",), weights=WEIGHTS, longest=20)
    differentiator = Differentiator(config, tiny.random_weights(config, mesh), options, mesh)
    found = differentiator.submit(prompt, prompt[-4:] + 1, math.inf).result()
    differentiator.stop()
    return [decoder.embedding, np.array(found.score), *found.tensors.values()]


def test_two_devices_give_the_numbers_of_one() -> None:
    two_devices, one_device = (numbers(tiny.LLAMA, (1, 1, n)) for n in (2, 1))
    for two, one in zip(two_devices, one_device, strict=True):
        # Sums split in two, against the largest of them.
        np.testing.assert_allclose(two, one, atol=1e-4 * float(np.abs(one).max()))
