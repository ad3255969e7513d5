"""The prefix cache changes what is computed, never what comes out."""

import numpy as np
import pytest

from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import ScoreDecoder
from saxml.engine.engine import Engine
from saxml.models.config import ModelConfig
from tests.unit.engine import tiny

BEAMS = tiny.beams(min_steps=2, max_steps=12)
BEGINNING = tiny.prompts(1, seed=8, longest=1)[0].tolist() + list(range(20, 41))


def prompt(*last: int, begin: int = len(BEGINNING)) -> np.ndarray:
    return np.array([*BEGINNING[:begin], *last], np.int32)


def answers(engine: Engine) -> list[list[int]]:
    """Prompts that begin alike, some whole pages long, in chunks of a step's 16 tokens: together,
    then again, then each continued by what it was answered."""
    prompts = [prompt(1), prompt(2, 3), prompt(4, begin=11), prompt(begin=16), prompt(1, 7)]
    found: list[list[int]] = []
    for _ in range(2):
        greedy = [engine.submit(p, tiny.greedy(12)) for p in prompts]
        beams = [engine.submit(p, BeamDecoder(BEAMS)) for p in prompts]
        turns = [(p, r.future.result()) for p, r in zip(prompts * 2, greedy + beams, strict=True)]
        found += [h.tokens.tolist() for _, hypotheses in turns for h in hypotheses]
        prompts = [np.concatenate([p, h[0].tokens]).astype(np.int32) for p, h in turns[:5]]
    return found


@pytest.mark.parametrize(
    ("config", "num_pages"), [(tiny.GPTJ, 256), (tiny.LLAMA, 40)], ids=["roomy", "tight"]
)
def test_same_ids_with_and_without_the_cache(config: ModelConfig, num_pages: int) -> None:
    with tiny.running(config, num_pages=num_pages, buckets=(16,)) as engine:
        cached = answers(engine)
        assert engine.gauges().prefix_hit_tokens > 0
    with tiny.running(config, num_pages=num_pages, buckets=(16,), prefix_cache=False) as engine:
        assert answers(engine) == cached
        assert engine.gauges().prefix_queried_tokens == 0


def test_suffixes_scored_behind_one_prefix_compute_it_once() -> None:
    suffixes = [np.array([s, s + 1, s + 2], np.int32) for s in range(10)]

    def scores(engine: Engine) -> list[float]:
        requests = []
        for suffix in suffixes:
            inputs = np.concatenate([prompt(), suffix[:-1]])
            requests.append(engine.submit(inputs, ScoreDecoder(suffix)))
        return [r.future.result()[0].score for r in requests]

    with tiny.running(tiny.LLAMA, prefix_cache=False) as engine:
        wanted = scores(engine)
    with tiny.running(tiny.LLAMA) as engine:
        assert scores(engine) == pytest.approx(wanted, abs=1e-4)
        # 22 tokens make five full pages of four; the first request computes them.
        assert engine.gauges().prefix_hit_tokens == (len(suffixes) - 1) * 20
        assert scores(engine) == pytest.approx(wanted, abs=1e-4)
        assert engine.gauges().prefix_hit_tokens == (2 * len(suffixes) - 1) * 20


def test_requests_with_different_salts_share_nothing() -> None:
    with tiny.running(tiny.LLAMA) as engine:
        found = []
        for salt in (0, 1, 2**64 - 1):
            request = engine.submit(prompt(1), tiny.greedy(4), cache_salt=salt)
            found.append(request.future.result()[0].tokens.tolist())
        assert engine.gauges().prefix_hit_tokens == 0
        engine.submit(prompt(1), tiny.greedy(4), cache_salt=1).future.result()
        assert engine.gauges().prefix_hit_tokens == 20
    assert found[0] == found[1] == found[2]
