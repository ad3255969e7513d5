"""The same request on one and on several devices gives the same ids."""

import jax
import pytest

from saxml.engine.beam import BeamDecoder, BeamOptions
from saxml.models.config import ModelConfig
from tests.unit.engine import tiny

BEAMS = BeamOptions(
    beam_size=3,
    tokens_per_beam=3,
    alpha=0.5,
    min_steps=1,
    max_steps=8,
    stop_ids=(tiny.STOP,),
    early_exit=False,
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
