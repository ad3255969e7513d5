"""Hidden states of prompts, pooled: those of a dense forward pass, whatever else runs."""

import threading
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml.common import errors
from saxml.engine.decoders import SampleDecoder
from saxml.engine.embedding import POOLINGS, EmbedDecoder, Embedders
from saxml.engine.engine import Engine
from saxml.engine.request import Request
from saxml.models import registry, sharding
from saxml.models.config import ModelConfig
from saxml.ops import attention
from tests.unit.engine import tiny

# Sums of at most 64 float32 products of unit size, in another order.
ATOL = 2e-4
LONGEST = 60


@pytest.fixture(scope="module", params=[tiny.GPTJ, tiny.LLAMA], ids=lambda c: c.family)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def engine(config: ModelConfig) -> Iterator[Engine]:
    with tiny.running(config) as running:
        yield running


@pytest.fixture(scope="module")
def dense(config: ModelConfig) -> Callable[[np.ndarray], np.ndarray]:
    """Hidden states f32[n, D] of a whole prompt at once, without pages."""
    family = registry.family(config)
    weights = tiny.random_weights(config, sharding.make_mesh((1, 1, 1), jax.devices()))

    @jax.jit
    def run(tokens: jax.Array) -> jax.Array:
        embedded, positions = family.embed(weights, tokens), jnp.arange(LONGEST)
        by_heads = attention.by_heads(attend, config.heads)
        hidden, _ = family.forward(config, weights, embedded, positions, by_heads, ())
        return hidden

    def attend(q, k, v, cache, layer):  # type: ignore[no-untyped-def]
        return attention.causal_attention(q, k, v), cache

    def call(prompt: np.ndarray) -> np.ndarray:
        tokens = np.zeros(LONGEST, np.int32)
        tokens[: len(prompt)] = prompt
        return np.asarray(run(jnp.array(tokens)))[: len(prompt)]

    return call


def pooled(hidden: np.ndarray, pooling: str) -> np.ndarray:
    found: np.ndarray = hidden[-1] if pooling == "last" else hidden.mean(0)
    return found


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_among_streams_are_those_of_a_dense_forward_pass(
    engine: Engine, dense: Callable[[np.ndarray], np.ndarray], pooling: str
) -> None:
    """Most prompts take several steps of 32 tokens beside the streams that decode."""
    prompts = tiny.prompts(8, seed=20, longest=LONGEST)
    streams = [engine.submit(p, tiny.greedy(24)) for p in tiny.prompts(6, seed=21)]
    requests = []
    for prompt in prompts:
        decoder = EmbedDecoder(len(prompt), pooling)
        requests.append((prompt, decoder, engine.submit(prompt, decoder)))
    for prompt, decoder, request in requests:
        assert request.future.result(timeout=60) == []
        wanted = pooled(dense(prompt), pooling)
        np.testing.assert_allclose(decoder.embedding, wanted, atol=ATOL)
    for stream in streams:
        stream.future.result(timeout=60)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_prefix_cache_changes_nothing(
    engine: Engine, dense: Callable[[np.ndarray], np.ndarray], pooling: str
) -> None:
    prompt = np.arange(40, dtype=np.int32)
    wanted = pooled(dense(prompt), pooling)
    hits = engine.gauges().prefix_hit_tokens
    for _ in range(2):
        decoder = EmbedDecoder(len(prompt), pooling)
        engine.submit(prompt, decoder).future.result(timeout=60)
        np.testing.assert_allclose(decoder.embedding, wanted, atol=ATOL)
    # The second one finds all full pages of four but that of the last token; the mean needs all.
    assert engine.gauges().prefix_hit_tokens - hits == (36 if pooling == "last" else 0)


def test_hidden_states_are_fetched_for_embeddings_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    take = Embedders.take

    def look(self: Embedders, *arguments: object) -> None:
        taken.append(engine.steps)
        take(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Embedders, "take", look)
    for prompt in tiny.prompts(3, seed=22):
        engine.submit(prompt, tiny.greedy(4)).future.result(timeout=60)
    assert taken == []
    prompt = tiny.prompts(1, seed=23)[0]
    decoder = EmbedDecoder(len(prompt), "mean")
    engine.submit(prompt, decoder).future.result(timeout=60)
    assert len(taken) == -(-len(prompt) // 32)
    del decoder
    engine.submit(prompt, tiny.greedy(4)).future.result(timeout=60)
    assert len(taken) == -(-len(prompt) // 32)


def test_cancelled_and_late_embeddings_give_their_pages_back(engine: Engine) -> None:
    started = threading.Event()

    def slow(_: object) -> None:
        started.set()
        time.sleep(0.02)

    busy = engine.submit(
        np.array([1], np.int32),
        SampleDecoder(num_samples=16, max_steps=60, stop_ids=()),
        on_step=slow,
    )
    started.wait(60)
    # All rows are taken: these wait.
    prompt = tiny.prompts(1, seed=24)[0]
    cancelled = engine.submit(prompt, EmbedDecoder(len(prompt), "mean"))
    late = engine.submit(
        prompt, EmbedDecoder(len(prompt), "mean"), deadline=time.monotonic() + 0.01
    )
    engine.cancel(cancelled)
    with pytest.raises(errors.CancelledError):
        cancelled.future.result(timeout=60)
    with pytest.raises(errors.DeadlineExceededError):
        late.future.result(timeout=60)
    engine.cancel(busy)
    with pytest.raises(errors.CancelledError):
        busy.future.result(timeout=60)


@pytest.mark.parametrize("cached", [True, False])
def test_preempted_embedding_is_the_same(cached: bool) -> None:
    """Room for one request at a time; an intruder of a higher priority comes after each of the
    first pieces."""
    with tiny.running(
        tiny.LLAMA, num_pages=20, max_rows=6, buckets=(6, 16), prefix_cache=cached
    ) as engine:
        intruders: list[Request] = []

        class Interrupted(EmbedDecoder):
            def take(self, position: int, hidden: np.ndarray) -> None:
                super().take(position, hidden)
                if len(intruders) < 2:
                    prompt = np.arange(50, dtype=np.int32)
                    intruders.append(engine.submit(prompt, tiny.greedy(10), priority=5))

        prompt = np.arange(90, 40, -1, dtype=np.int32)
        for pooling in POOLINGS:
            alone = EmbedDecoder(len(prompt), pooling)
            engine.submit(prompt, alone, cache_read=False).future.result(timeout=60)
            intruders.clear()
            before, interrupted = engine.gauges().preemptions, Interrupted(len(prompt), pooling)
            engine.submit(prompt, interrupted, cache_read=False).future.result(timeout=60)
            assert engine.gauges().preemptions == before + 2
            np.testing.assert_allclose(interrupted.embedding, alone.embedding, atol=ATOL)
            for intruder in intruders:
                assert intruder.future.result(timeout=60)


def test_pieces_computed_twice_count_once_and_missing_ones_are_an_error() -> None:
    hidden = np.arange(12, dtype=np.float32).reshape(6, 2)
    nothing = np.empty(0, np.int32), np.empty((0, 3), np.float32)
    decoder = EmbedDecoder(6, "mean")
    for begin, end in ((0, 3), (0, 2), (2, 5), (5, 6)):
        decoder.take(begin, hidden[begin:end])
    assert decoder.step(*nothing) is None
    np.testing.assert_allclose(decoder.embedding, hidden.mean(0))

    gap = EmbedDecoder(6, "mean")
    gap.take(0, hidden[:2])
    gap.take(3, hidden[3:])
    with pytest.raises(ValueError, match="2 of 6 tokens"):
        gap.step(*nothing)

    poisoned = EmbedDecoder(1, "last")
    poisoned.take(0, np.array([[np.nan, 1]], np.float32))
    with pytest.raises(ValueError, match="not finite"):
        poisoned.step(*nothing)
    with pytest.raises(ValueError, match="'cls' is not one of last, mean"):
        EmbedDecoder(6, "cls")
