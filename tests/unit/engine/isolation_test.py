"""A request whose logits are not finite fails by itself, and leaves nothing behind that hurts."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml.common import errors
from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import Decoder, SampleDecoder, ScoreDecoder
from saxml.engine.engine import Engine
from saxml.engine.sampling_params import SamplingParams
from saxml.models import sharding
from saxml.models.config import ModelConfig
from tests.unit.engine import tiny

POISON = 90
UNTIED = dataclasses.replace(tiny.LLAMA, tied_embeddings=False)
BEAMS = tiny.beams(min_steps=0, max_steps=8)


def engine_of(config: ModelConfig, value: float | None) -> Engine:
    """An engine whose embedding of POISON is `value` everywhere; None: as it was drawn. It has so
    few pages that requests get those of earlier ones."""
    mesh = sharding.make_mesh((1, 1, 1), jax.devices())
    weights = tiny.random_weights(config, mesh)
    if value is not None:
        weights["embedding"] = weights["embedding"].at[POISON].set(value)
    options = tiny.options(num_pages=40, buckets=(16,))
    return Engine(config, weights, options, mesh, jnp.float32)


@pytest.fixture(scope="module", params=[float("nan"), float("inf")], ids=["nan", "inf"])
def poisoned(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = engine_of(UNTIED, request.param)
    yield engine
    assert engine.gauges().used_pages == 0
    engine.check_integrity()
    engine.stop()


def greedy() -> SampleDecoder:
    return SampleDecoder(num_samples=1, max_steps=8, stop_ids=())


@pytest.fixture(scope="module")
def answers() -> list[tuple[np.ndarray, list[int]]]:
    """Prompts and what a sound engine says, without the poisoned token in either."""
    sound = engine_of(UNTIED, None)
    prompts = tiny.prompts(20, seed=11)
    requests = [sound.submit(prompt, greedy()) for prompt in prompts]
    found = [request.future.result()[0].tokens.tolist() for request in requests]
    sound.stop()
    pairs = zip(prompts, found, strict=True)
    clean = [(p, f) for p, f in pairs if POISON not in p.tolist() + f]
    assert len(clean) >= 8
    return clean[:8]


def test_only_requests_with_the_poisoned_token_fail(
    poisoned: Engine, answers: list[tuple[np.ndarray, list[int]]]
) -> None:
    bad = np.array([3, 4, 5, 6, 7, POISON, 8, 9, 10], np.int32)
    for _ in range(2):
        requests = []
        for prompt, _ in answers:
            requests.append(poisoned.submit(prompt, greedy()))
            bad_decoders: list[Decoder] = [
                greedy(),
                SampleDecoder(num_samples=2, max_steps=4, stop_ids=()),
                BeamDecoder(BEAMS),
                ScoreDecoder(np.array([1, 2], np.int32)),
            ]
            failing = [poisoned.submit(bad, decoder) for decoder in bad_decoders]
            for request in failing:
                with pytest.raises(errors.InternalError, match="not finite"):
                    request.future.result(timeout=60)
        found = [r.future.result(timeout=60)[0].tokens.tolist() for r in requests]
        assert found == [wanted for _, wanted in answers]


def test_request_that_turns_bad_while_it_decodes_fails(poisoned: Engine) -> None:
    # The first generated token is the poisoned one; its logits are sound, the next ones are not.
    prompt = np.array([1, 2, 3], np.int32)
    request = poisoned.submit(prompt, greedy(), sampling=SamplingParams(logit_bias={POISON: 100.0}))
    with pytest.raises(errors.InternalError, match="not finite"):
        request.future.result(timeout=60)
    assert poisoned.submit(prompt, greedy()).future.result(timeout=60)
