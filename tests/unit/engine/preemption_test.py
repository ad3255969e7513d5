"""Whoever has to make way goes on later with the same tokens."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from saxml import native
from saxml.common import errors
from saxml.engine.beam import BeamDecoder, BeamOptions
from saxml.engine.decoders import Decoder, Hypothesis, SampleDecoder, ScoreDecoder
from saxml.engine.engine import Engine
from saxml.engine.request import Request
from saxml.engine.sampling_params import SamplingParams
from tests.unit.engine import tiny

BEAMS = BeamOptions(
    beam_size=3,
    tokens_per_beam=3,
    alpha=0.5,
    min_steps=2,
    max_steps=16,
    stop_ids=(tiny.STOP,),
    early_exit=False,
    fixed_steps=True,
)
PROMPTS = tiny.prompts(6, seed=11, longest=20)
WAIT_S = 120


@pytest.fixture(scope="module", params=[True, False], ids=["cached", "plain"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Room for about two of the requests below, and for none beside the intruder."""
    changed = {"num_pages": 20, "max_rows": 6, "buckets": (6, 16), "prefix_cache": request.param}
    with tiny.running(tiny.LLAMA, **changed) as running:
        yield running


def samples(count: int = 1, max_steps: int = 20) -> SampleDecoder:
    return SampleDecoder(num_samples=count, max_steps=max_steps, stop_ids=())


class Intruder:
    """Submits a request of a high priority, which needs most pages, from within another's steps."""

    def __init__(self, engine: Engine, at: tuple[int, ...]) -> None:
        self.engine = engine
        self.at = at
        self.seen = 0
        self.requests: list[Request] = []

    def __call__(self, _: list[Hypothesis]) -> None:
        self.seen += 1
        if self.seen in self.at:
            prompt = np.arange(40, dtype=np.int32)
            request = self.engine.submit(prompt, samples(max_steps=24), priority=5)
            self.requests.append(request)


def tokens(request: Request) -> list[list[int]]:
    return [h.tokens.tolist() for h in request.future.result(timeout=WAIT_S)]


DECODERS: dict[str, tuple[Callable[[], Decoder], SamplingParams]] = {
    "greedy": (samples, SamplingParams()),
    "samples": (lambda: samples(3, 12), SamplingParams(temperature=1.0, seed=7)),
    "penalties": (samples, SamplingParams(frequency_penalty=1.5, repetition_penalty=1.3)),
    "beams": (lambda: BeamDecoder(BEAMS), SamplingParams()),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_preempted_requests_give_the_same_tokens(engine: Engine, kind: str) -> None:
    decoder, sampling = DECODERS[kind]
    for prompt in PROMPTS[:3]:
        alone = tokens(engine.submit(prompt, decoder(), sampling=sampling))
        before = engine.gauges().preemptions
        intruder = Intruder(engine, (1, 4, 9))
        request = engine.submit(prompt, decoder(), sampling=sampling, on_step=intruder)
        assert tokens(request) == alone
        assert [len(tokens(r)[0]) for r in intruder.requests] == [24] * 3
        assert engine.gauges().preemptions == before + 3


def test_crowd_of_low_priority_gives_the_same_tokens(engine: Engine) -> None:
    def crowd(intruder: Intruder | None) -> list[list[list[int]]]:
        requests = [engine.submit(p, samples(max_steps=16), on_step=intruder) for p in PROMPTS]
        requests += [engine.submit(p, BeamDecoder(BEAMS)) for p in PROMPTS[:2]]
        return [tokens(r) for r in requests]

    quiet, before = crowd(None), engine.gauges().preemptions
    intruder = Intruder(engine, (2, 7, 20, 40, 60))
    assert crowd(intruder) == quiet
    assert engine.gauges().preemptions > before
    concurrent.futures.wait([r.future for r in intruder.requests])


def test_scores_of_a_preempted_request_are_each_there_once(engine: Engine) -> None:
    prompt = np.arange(3, 40, dtype=np.int32)  # five steps of at most six targets
    targets = np.arange(10, 40, dtype=np.int32)
    alone = engine.submit(prompt, ScoreDecoder(targets), cache_read=False).future.result()[0]
    before = engine.gauges().preemptions
    intruder = Intruder(engine, (2, 4))
    request = engine.submit(prompt, ScoreDecoder(targets), cache_read=False, on_step=intruder)
    found = request.future.result(timeout=WAIT_S)[0]
    assert found.logprobs is not None
    assert alone.logprobs is not None
    np.testing.assert_allclose(found.logprobs.chosen, alone.logprobs.chosen, atol=1e-4)
    assert engine.gauges().preemptions == before + 2
    concurrent.futures.wait([r.future for r in intruder.requests])


def test_preempted_request_can_be_cancelled(engine: Engine) -> None:
    started = threading.Event()
    submitted = threading.Event()
    hold: list[Request] = []

    def intrude(_: list[Hypothesis]) -> None:
        submitted.wait(10)
        if not hold:
            hold.append(engine.submit(np.arange(40, dtype=np.int32), samples(), priority=5))
            engine.cancel(low)
            started.set()

    low = engine.submit(PROMPTS[0], samples(), on_step=intrude)
    submitted.set()
    with pytest.raises(errors.CancelledError):
        low.future.result(timeout=WAIT_S)
    assert started.wait(10)
    assert len(tokens(hold[0])[0]) == 20


def test_request_that_is_stuck_fails_with_internal(engine: Engine) -> None:
    request = engine.submit(PROMPTS[0], samples())
    tokens(request)
    scheduler = engine._scheduler

    class Stuck:
        """Says that the next request is stuck."""

        def __getattr__(self, name: str) -> object:
            return getattr(scheduler, name)

        def take_dropped(self) -> list[tuple[int, native.DropReason]]:
            dropped = scheduler.take_dropped()
            if waiting := list(engine._requests):
                scheduler.finish(waiting[0])
                engine._scheduler = scheduler
                return [*dropped, (waiting[0], native.DropReason.STUCK)]
            return dropped

    engine._scheduler = Stuck()  # type: ignore[assignment]
    stuck = engine.submit(PROMPTS[0], samples())
    with pytest.raises(errors.InternalError, match="please report") as failure:
        stuck.future.result(timeout=WAIT_S)
    assert failure.value.code == grpc.StatusCode.INTERNAL
    assert tokens(engine.submit(PROMPTS[0], samples()))
