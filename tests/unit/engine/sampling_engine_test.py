"""Requests that sample, through a whole engine: what a request is answered depends on it alone."""

import concurrent.futures
import math
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.common import errors
from saxml.engine.beam import BeamDecoder, BeamOptions
from saxml.engine.decoders import Hypothesis, LogProbs, SampleDecoder, ScoreDecoder
from saxml.engine.engine import Engine
from saxml.engine.request import Request
from saxml.engine.sampling_params import SamplingParams
from tests.unit.engine import tiny

LOGPROBS = 5
# What requests of the property below ask for; each has its own prompt.
ASKED = [
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=0.7, seed=2, top_p=0.9, repetition_penalty=1.4),
    SamplingParams(presence_penalty=1.5, frequency_penalty=0.5),
    SamplingParams(temperature=(0.0, 2.0), seed=3, min_p=0.05),
    SamplingParams(temperature=1.2, seed=4, min_steps=6, logprobs=2),
    SamplingParams(temperature=1.0, seed=5, logit_bias={7: 4.0, tiny.STOP: 3.0}),
    SamplingParams(),
]
PROMPTS = tiny.prompts(len(ASKED), seed=21, longest=30)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with tiny.running(
        tiny.LLAMA, buckets=(16,), max_logprobs=LOGPROBS, prefill_stretch=math.inf
    ) as running:
        yield running


def submit(engine: Engine, number: int) -> Request:
    params = ASKED[number]
    decoder = SampleDecoder(
        num_samples=2 if isinstance(params.temperature, tuple) else 1,
        max_steps=10,
        stop_ids=(tiny.STOP,),
    )
    return engine.submit(PROMPTS[number], decoder, sampling=params)


def tokens(hypotheses: list[Hypothesis]) -> list[list[int]]:
    return [h.tokens.tolist() for h in hypotheses]


def sample(
    engine: Engine,
    params: SamplingParams,
    *,
    num_samples: int = 1,
    stop_ids: tuple[int, ...] = (),
    prompt: np.ndarray = PROMPTS[0],
) -> list[Hypothesis]:
    decoder = SampleDecoder(num_samples=num_samples, max_steps=10, stop_ids=stop_ids)
    return engine.submit(prompt, decoder, sampling=params).future.result(timeout=120)


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[list[list[int]]]:
    return [
        tokens(submit(engine, number).future.result(timeout=120)) for number in range(len(ASKED))
    ]


@settings(max_examples=20, deadline=None)
@given(numbers=st.lists(st.integers(0, len(ASKED) - 1), min_size=2, max_size=12))
def test_answer_depends_on_neither_batch_mates_nor_their_order(
    engine: Engine, alone: list[list[list[int]]], numbers: list[int]
) -> None:
    requests = [submit(engine, number) for number in numbers]
    for number, request in zip(numbers, requests, strict=True):
        assert tokens(request.future.result(timeout=120)) == alone[number]


def test_answers_are_the_same_with_whole_prompts_and_without_the_prefix_cache(
    alone: list[list[list[int]]],
) -> None:
    with tiny.running(
        tiny.LLAMA,
        buckets=(64,),
        max_logprobs=LOGPROBS,
        prefill_stretch=math.inf,
        prefix_cache=False,
    ) as whole:
        requests = [submit(whole, number) for number in range(len(ASKED))]
        assert [tokens(r.future.result(timeout=120)) for r in requests] == alone


def test_each_sample_has_its_own_temperature(engine: Engine) -> None:
    temperatures = (0.0, 2.0, 0.7)
    mixed = sample(engine, SamplingParams(temperature=temperatures, seed=9), num_samples=3)
    for place, temperature in enumerate(temperatures):
        same = sample(engine, SamplingParams(temperature=temperature, seed=9), num_samples=3)
        assert tokens(mixed)[place] == tokens(same)[place]
    with pytest.raises(errors.InvalidArgumentError, match="2 values for 3 samples"):
        sample(engine, SamplingParams(temperature=(0.0, 1.0)), num_samples=3)


def test_samples_share_the_pages_of_their_prompt(engine: Engine) -> None:
    prompt = np.arange(30, 52, dtype=np.int32)  # five pages of four tokens, and two tokens
    used: list[int] = []

    def look(_: object) -> None:
        used.append(engine.gauges().used_pages)

    decoder = SampleDecoder(num_samples=4, max_steps=8, stop_ids=())
    params = SamplingParams(temperature=1.0, seed=1)
    engine.submit(prompt, decoder, sampling=params, on_step=look).future.result(timeout=120)
    # Forked; then each has a last page of its own; then its next one. What the last step gave is
    # not told: it ends the request.
    forked = used.index(6)
    assert used[forked:] == [6, 9, 9, 13, 13, 13, 13]


def test_stop_tokens_are_barred_before_min_steps(engine: Engine) -> None:
    wanting = {tiny.STOP: 100.0}
    assert tokens(sample(engine, SamplingParams(logit_bias=wanting), stop_ids=(tiny.STOP,))) == [
        [tiny.STOP]
    ]
    barred = SamplingParams(logit_bias=wanting, min_steps=4)
    found = tokens(sample(engine, barred, stop_ids=(tiny.STOP,)))[0]
    assert tiny.STOP not in found[:4]
    assert found[4:] == [tiny.STOP]
    # A stop token of the request's own, while the engine's is none of its.
    own = SamplingParams(logit_bias={tiny.STOP: 50.0, 40: 100.0}, min_steps=3)
    assert tokens(sample(engine, own, stop_ids=(40,))) == [[tiny.STOP] * 3 + [40]]


def test_log_probabilities_of_samples_are_those_of_scoring_them(engine: Engine) -> None:
    params = SamplingParams(temperature=1.5, seed=3, logprobs=LOGPROBS, repetition_penalty=1.5)
    found = sample(engine, params)[0]
    assert isinstance(found.logprobs, LogProbs)
    inputs = np.concatenate([PROMPTS[0], found.tokens[:-1]])
    decoder = ScoreDecoder(found.tokens, logprobs=LOGPROBS)
    scored = engine.submit(inputs, decoder, cache_read=False).future.result(timeout=120)[0]
    assert isinstance(scored.logprobs, LogProbs)
    # Decode steps and prefill sum up in another order.
    np.testing.assert_allclose(found.logprobs.chosen, scored.logprobs.chosen, atol=1e-3)
    np.testing.assert_allclose(found.logprobs.best, scored.logprobs.best, atol=1e-3)
    np.testing.assert_array_equal(found.logprobs.best_ids, scored.logprobs.best_ids)
    assert found.score == pytest.approx(float(found.logprobs.chosen.sum()), abs=1e-4)
    assert found.logprobs.best.shape == (len(found.tokens), LOGPROBS)


def test_nothing_compiles_when_penalties_come(engine: Engine) -> None:
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    requests = [submit(engine, number) for number in range(len(ASKED))]
    concurrent.futures.wait([r.future for r in requests])
    assert compiled == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (SamplingParams(logprobs=LOGPROBS + 1), "logprobs is 6; this model reports at most 5"),
        (SamplingParams(logit_bias={tiny.VOCAB: 1.0}), "outside the vocabulary of 97"),
    ],
)
def test_what_the_engine_cannot_give_is_refused(
    engine: Engine, params: SamplingParams, message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        sample(engine, params)
    assert engine.pending == 0


def test_penalties_are_not_for_beams_and_scores(engine: Engine) -> None:
    beams = BeamOptions(
        beam_size=2,
        tokens_per_beam=2,
        alpha=0.0,
        min_steps=0,
        max_steps=4,
        stop_ids=(tiny.STOP,),
        early_exit=False,
    )
    for decoder in (BeamDecoder(beams), ScoreDecoder(np.array([1], np.int32))):
        with pytest.raises(errors.InvalidArgumentError, match="for requests that sample"):
            engine.submit(PROMPTS[0], decoder, sampling=SamplingParams(presence_penalty=1.0))
    with pytest.raises(errors.InvalidArgumentError, match="at most 5"):
        engine.submit(PROMPTS[0], ScoreDecoder(np.array([1], np.int32), logprobs=6))
    assert engine.pending == 0
