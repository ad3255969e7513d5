"""An engine on the CPU kernels against the same in plain JAX."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import Decoder, SampleDecoder
from saxml.engine.engine import Engine
from saxml.engine.sampling_params import SamplingParams
from saxml.models.config import ModelConfig
from saxml.ops.backend import PLAIN, Backend, Element
from tests.unit.engine import tiny

BEAMS = tiny.beams(min_steps=0, max_steps=14)


def answers(engine: Engine) -> list[list[tuple[list[int], float]]]:
    """What a mix of requests gives that run together."""
    decoders: list[tuple[Decoder, SamplingParams]] = []
    for seed in range(4):
        decoders.append((tiny.greedy(18), SamplingParams()))
        sample = SampleDecoder(num_samples=3, max_steps=12, stop_ids=(tiny.STOP,))
        decoders.append((sample, SamplingParams(temperature=0.8, top_k=20, seed=seed)))
        decoders.append((BeamDecoder(BEAMS), SamplingParams()))
    prompts = tiny.prompts(len(decoders), seed=2)
    prompts[5] = np.concatenate([prompts[3], prompts[5]])[:40]  # begins like another
    requests = [
        engine.submit(prompt, decoder, sampling=sampling)
        for prompt, (decoder, sampling) in zip(prompts, decoders, strict=True)
    ]
    return [
        [(h.tokens.tolist(), h.score) for h in request.future.result(60)] for request in requests
    ]


@pytest.mark.parametrize("config", [tiny.LLAMA, tiny.GPTJ], ids=lambda c: c.family)
def test_all_requests_get_the_same_tokens(config: ModelConfig) -> None:
    found = {}
    for backend in (PLAIN, Backend("float32")):
        with tiny.running(config, page_size=16, num_pages=64, backend=backend) as engine:
            found[backend] = answers(engine)
    for plain, kernels in zip(found[PLAIN], found[Backend("float32")], strict=True):
        assert [tokens for tokens, _ in plain] == [tokens for tokens, _ in kernels]
        np.testing.assert_allclose(
            [score for _, score in plain], [score for _, score in kernels], atol=1e-3
        )


@pytest.mark.parametrize("element", ["bfloat16", "int8"])
def test_narrow_weights_give_nearly_the_same_score(element: Element) -> None:
    scores: dict[Element | None, float] = {}
    for backend in (PLAIN, Backend(element)):
        with tiny.running(tiny.GPTJ, page_size=16, num_pages=64, backend=backend) as engine:
            request = engine.submit(tiny.prompts(1, seed=4)[0], tiny.greedy(4))
            scores[backend.element] = request.future.result(60)[0].score
    assert scores[element] == pytest.approx(scores[None], abs=1.0 if element == "int8" else 0.3)


def test_a_step_copies_no_pages() -> None:
    with tiny.running(tiny.LLAMA, page_size=16, backend=Backend("float32")) as engine:
        before = _place(engine)
        engine.submit(tiny.prompts(1)[0], tiny.greedy(8)).future.result(60)
        assert _place(engine) == before


@pytest.mark.parametrize("config", [tiny.LLAMA, tiny.GPTJ], ids=lambda c: c.family)
def test_a_step_has_no_room_for_a_copy_of_pages_or_embeddings(config: ModelConfig) -> None:
    config = dataclasses.replace(config, vocab_size=20_000)
    with tiny.running(
        config,
        page_size=16,
        num_pages=4096,
        max_rows=4,
        buckets=(1, 16),
        backend=Backend("bfloat16"),
    ) as engine:
        pages = engine._device._pages
        assert pages is not None
        table = 2 * config.vocab_size * config.model_dim
        for bucket, step in engine._device.steps.items():
            sizes: Any = step
            memory = sizes.memory_analysis()
            assert memory.alias_size_in_bytes == pages.nbytes
            assert memory.temp_size_in_bytes < pages.nbytes / 8
            logits = 4 * min(bucket, 4) * config.vocab_size
            assert memory.temp_size_in_bytes < 3 * logits + table / 4


def _place(engine: Engine) -> int:
    pages = engine._device._pages
    assert pages is not None
    return pages.unsafe_buffer_pointer()
