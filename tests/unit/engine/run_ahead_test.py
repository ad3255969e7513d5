"""A step that is dispatched before the last one was read changes when things happen, never what
comes out."""

import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from saxml.common import errors
from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import Decoder, Hypothesis, SampleDecoder, ScoreDecoder
from saxml.engine.embedding import EmbedDecoder
from saxml.engine.engine import Engine
from saxml.engine.request import Request
from saxml.engine.sampling_params import SamplingParams
from tests.unit.engine import tiny

BEAMS = tiny.beams(min_steps=2, max_steps=12)
PROMPTS = tiny.prompts(8, seed=21, longest=20)
GREEDY, HOT = SamplingParams(), SamplingParams(temperature=1.0, seed=5)
WAIT_S = 120


@dataclasses.dataclass(frozen=True)
class Both:
    """Two engines that differ in one option."""

    plain: Engine
    ahead: Engine


def running(*, run_ahead: bool) -> contextlib.AbstractContextManager[Engine]:
    return tiny.running(tiny.LLAMA, num_pages=40, max_rows=8, buckets=(8, 24), run_ahead=run_ahead)


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with running(run_ahead=False) as plain:
        with running(run_ahead=True) as ahead:
            yield Both(plain, ahead)
        assert plain.steps_ahead == 0


def samples(
    count: int = 1,
    max_steps: int = 20,
    stop_ids: tuple[int, ...] = (),
    stop_sequences: tuple[tuple[int, ...], ...] = (),
) -> SampleDecoder:
    return SampleDecoder(
        num_samples=count, max_steps=max_steps, stop_ids=stop_ids, stop_sequences=stop_sequences
    )


def answers(requests: list[Request]) -> list[list[list[int]]]:
    return [[h.tokens.tolist() for h in r.future.result(timeout=WAIT_S)] for r in requests]


Submit = Callable[[Engine, np.ndarray], Request]


def of(decoder: Callable[[], Decoder], sampling: SamplingParams = GREEDY) -> Submit:
    return lambda engine, prompt: engine.submit(prompt, decoder(), sampling=sampling)


KINDS: dict[str, Submit] = {
    "greedy": of(samples),
    "samples": of(lambda: samples(3), HOT),
    "one step": of(lambda: samples(2, 1), HOT),
    "two steps": of(lambda: samples(2, 2), HOT),
    "stop tokens": of(lambda: samples(4, 20, tuple(range(0, tiny.VOCAB, 6))), HOT),
    "stop sequences": of(
        lambda: samples(3, 20, (), tuple((a,) for a in range(3, tiny.VOCAB, 9))), HOT
    ),
    "temperatures": of(
        lambda: samples(2), SamplingParams(temperature=(0.0, 1.5), seed=3, min_steps=4)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_same_tokens(both: Both, kind: str) -> None:
    before = both.ahead.steps_ahead
    plain, ahead = (
        answers([KINDS[kind](engine, p) for p in PROMPTS]) for engine in (both.plain, both.ahead)
    )
    assert ahead == plain
    if kind != "one step":
        assert both.ahead.steps_ahead > before


def test_same_tokens_among_those_that_must_not_run_ahead(both: Both) -> None:
    kinds = [
        *KINDS.values(),
        of(lambda: BeamDecoder(BEAMS)),
        of(samples, SamplingParams(frequency_penalty=1.0)),
        of(lambda: ScoreDecoder(np.arange(1, 3, dtype=np.int32))),
    ]
    prompts = [p for p in PROMPTS if len(p) > 2]

    def mixed(engine: Engine) -> list[list[list[int]]]:
        return answers([kind(engine, prompts[i % 5]) for i, kind in enumerate(kinds * 3)])

    assert mixed(both.ahead) == mixed(both.plain)


def test_same_scores_and_embeddings_beside_a_stream(both: Both) -> None:
    def found(engine: Engine) -> tuple[list[list[int]], float, np.ndarray]:
        stream = engine.submit(PROMPTS[0], samples(max_steps=40))
        targets = np.arange(10, 30, dtype=np.int32)
        score = engine.submit(np.arange(9, 39, dtype=np.int32), ScoreDecoder(targets))
        embedder = EmbedDecoder(40, "mean")
        engine.submit(np.arange(40, dtype=np.int32), embedder).future.result(timeout=WAIT_S)
        scored = score.future.result(timeout=WAIT_S)[0].score
        return answers([stream])[0], scored, embedder.embedding

    plain, ahead = found(both.plain), found(both.ahead)
    assert ahead[0] == plain[0]
    assert ahead[1] == pytest.approx(plain[1], abs=1e-4)
    np.testing.assert_allclose(ahead[2], plain[2], atol=1e-4)


def test_cancelled_in_flight_gives_its_pages_back(both: Both) -> None:
    engine, reached = both.ahead, threading.Event()

    def look(hypotheses: list[Hypothesis]) -> None:
        if len(hypotheses[0].tokens) == 5:
            reached.set()

    other = engine.submit(PROMPTS[1], samples())
    request = engine.submit(PROMPTS[0], samples(3, 40), on_step=look)
    assert reached.wait(WAIT_S)
    engine.cancel(request)
    with contextlib.suppress(errors.CancelledError):
        request.future.result(timeout=WAIT_S)
    assert answers([other]) == answers([both.plain.submit(PROMPTS[1], samples())])
    assert engine.gauges().used_pages == 0


def test_samples_that_finish_early_keep_what_they_have(both: Both) -> None:
    whole = answers([both.plain.submit(PROMPTS[2], samples(3), sampling=HOT)])[0]
    submitted = threading.Event()

    def look(hypotheses: list[Hypothesis]) -> None:
        submitted.wait(WAIT_S)
        if len(hypotheses[2].tokens) == 4:
            both.ahead.finish_early(request, 1)

    request = both.ahead.submit(PROMPTS[2], samples(3), sampling=HOT, on_step=look)
    submitted.set()
    found = answers([request])[0]
    assert found[0] == whole[0]
    assert found[2] == whole[2]
    # The step after the fourth was on its way already, and is not counted.
    assert found[1] == whole[1][:4]


def test_higher_priority_makes_one_that_ran_ahead_give_way(both: Both) -> None:
    engine, before = both.ahead, both.ahead.gauges().preemptions
    prompt = np.arange(30, dtype=np.int32)
    intruders: list[Request] = []

    def intrude(hypotheses: list[Hypothesis]) -> None:
        if len(hypotheses[0].tokens) in (3, 11) and len(intruders) < 2:
            intruders.append(engine.submit(prompt, samples(4, 24), priority=1))

    low = engine.submit(PROMPTS[0], samples(4, 24), sampling=HOT, on_step=intrude)
    found = answers([low])
    assert engine.gauges().preemptions > before
    assert found == answers([both.plain.submit(PROMPTS[0], samples(4, 24), sampling=HOT)])
    wanted = answers([both.plain.submit(prompt, samples(4, 24))])
    assert [answers([request]) for request in intruders] == [wanted] * len(intruders)


def test_nothing_is_left_in_flight_when_all_have_finished(both: Both) -> None:
    requests = [both.ahead.submit(p, tiny.greedy()) for p in PROMPTS]
    concurrent.futures.wait([r.future for r in requests], timeout=WAIT_S)
    assert both.ahead.pending == 0
    deadline = threading.Event()
    while both.ahead._flight is not None:
        assert not deadline.wait(0.01)
    assert both.ahead.metrics.step_seconds.count == both.ahead.steps
