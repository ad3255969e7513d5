"""The step loop on tiny random models: same answers whatever else runs, and no page lost."""

import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

from saxml.common import errors
from saxml.engine import engine as engine_lib
from saxml.engine import heartbeat
from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import Continue, Hypothesis, SampleDecoder, ScoreDecoder
from saxml.engine.engine import Engine
from saxml.engine.metrics import Reason
from saxml.engine.sampling_params import SamplingParams
from saxml.models.config import ModelConfig
from tests.unit.engine import tiny

BEAMS = tiny.beams(min_steps=2, max_steps=20, beam_size=4)


@pytest.fixture(scope="module", params=[tiny.GPTJ, tiny.LLAMA], ids=lambda c: c.family)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    config: ModelConfig = request.param
    with tiny.running(config) as running:
        yield running


def test_request_alone_and_among_fifteen_others_gives_the_same_ids(engine: Engine) -> None:
    prompts = tiny.prompts(16)
    alone = [engine.submit(p, tiny.greedy()).future.result()[0] for p in prompts]
    together = [engine.submit(p, tiny.greedy()) for p in prompts]
    for one, request in zip(alone, together, strict=True):
        other = request.future.result()[0]
        assert other.tokens.tolist() == one.tokens.tolist()
        assert other.score == pytest.approx(one.score, abs=1e-3)


def test_beams_alone_and_among_samples_are_the_same(engine: Engine) -> None:
    prompts = tiny.prompts(6, seed=1)
    alone = [engine.submit(p, BeamDecoder(BEAMS)).future.result() for p in prompts]
    mixed = []
    for prompt in prompts:
        mixed.append(engine.submit(prompt, BeamDecoder(BEAMS)))
        engine.submit(prompt, tiny.greedy())
    for one, request in zip(alone, mixed, strict=True):
        other = request.future.result()
        assert [h.tokens.tolist() for h in other] == [h.tokens.tolist() for h in one]


def test_score_of_generated_tokens_is_their_generation_score(engine: Engine) -> None:
    for prompt in tiny.prompts(4, seed=2):
        generated = engine.submit(prompt, tiny.greedy()).future.result()[0]
        inputs = np.concatenate([prompt, generated.tokens[:-1]])
        scored = engine.submit(inputs, ScoreDecoder(generated.tokens)).future.result()[0]
        assert scored.score == pytest.approx(generated.score, abs=1e-3)


def test_sampling_depends_on_its_seed_and_not_on_its_neighbours(engine: Engine) -> None:
    prompt = tiny.prompts(1, seed=3)[0]

    def sample(seed: int):  # type: ignore[no-untyped-def]
        decoder = SampleDecoder(num_samples=3, max_steps=12, stop_ids=(tiny.STOP,))
        return engine.submit(prompt, decoder, sampling=SamplingParams(temperature=1.0, seed=seed))

    first = [h.tokens.tolist() for h in sample(7).future.result()]
    crowd = [engine.submit(p, tiny.greedy()) for p in tiny.prompts(8, seed=4)]
    again = [h.tokens.tolist() for h in sample(7).future.result()]
    other = [h.tokens.tolist() for h in sample(8).future.result()]
    concurrent.futures.wait([r.future for r in crowd])
    assert first == again
    assert first != other
    assert first[0] != first[1]


def test_sample_goes_on_the_same_when_another_of_its_request_has_ended(engine: Engine) -> None:
    prompt = tiny.prompts(1, seed=3)[0]

    def sample(stop_ids: tuple[int, ...]) -> list[list[int]]:
        decoder = SampleDecoder(num_samples=4, max_steps=12, stop_ids=stop_ids)
        request = engine.submit(prompt, decoder, sampling=SamplingParams(temperature=1.0, seed=7))
        return [h.tokens.tolist() for h in request.future.result()]

    whole = sample(())
    for stop in (whole[0][0], whole[1][2]):
        cut = [t[: t.index(stop) + 1] if stop in t else t for t in whole]
        assert any(len(t) < 12 for t in cut[:-1])
        assert any(len(t) == 12 for t in cut)
        assert sample((stop,)) == cut


def test_temperature_zero_and_top_k_one_are_greedy(engine: Engine) -> None:
    prompt = tiny.prompts(1, seed=5)[0]
    wanted = engine.submit(prompt, tiny.greedy()).future.result()[0].tokens.tolist()
    for one in (SamplingParams(top_k=1), SamplingParams(top_p=0.0)):
        sampling = dataclasses.replace(one, temperature=5.0, seed=1)
        request = engine.submit(prompt, tiny.greedy(), sampling=sampling)
        assert request.future.result()[0].tokens.tolist() == wanted


def test_cancelled_request_fails_and_gives_its_pages_back(engine: Engine) -> None:
    started = threading.Event()
    decoder = SampleDecoder(num_samples=1, max_steps=60, stop_ids=())

    def slow_step(_: object) -> None:
        started.set()
        time.sleep(0.02)

    request = engine.submit(np.array([1], np.int32), decoder, on_step=slow_step)
    started.wait()
    engine.cancel(request)
    with pytest.raises(errors.CancelledError):
        request.future.result(timeout=10)
    engine.cancel(request)


def test_samples_finished_early_keep_their_tokens_and_take_no_step_more(engine: Engine) -> None:
    prompt = tiny.prompts(1, seed=7)[0]

    def submit(on_step: Callable[[list[Hypothesis]], None] | None):  # type: ignore[no-untyped-def]
        decoder = SampleDecoder(num_samples=3, max_steps=20, stop_ids=())
        return engine.submit(prompt, decoder, on_step=on_step)

    whole = submit(None).future.result(timeout=60)
    submitted = threading.Event()

    def look(hypotheses: list[Hypothesis]) -> None:
        submitted.wait(60)
        ends = {3: [1], 6: [2, 0]}
        for sample in ends.get(len(hypotheses[0].tokens), []):
            engine.finish_early(request, sample)

    request = submit(look)
    submitted.set()
    found = request.future.result(timeout=60)
    assert [len(h.tokens) for h in found] == [6, 3, 6]
    assert all(h.ended for h in found)
    for early, late in zip(found, whole, strict=True):
        assert early.tokens.tolist() == late.tokens[: len(early.tokens)].tolist()
        assert early.score > late.score
    assert engine.pending == 0
    engine.finish_early(request, 0)
    with pytest.raises(ValueError, match="sample 3: the request has 3"):
        engine.finish_early(request, 3)
    beams = engine.submit(prompt, BeamDecoder(BEAMS))
    with pytest.raises(ValueError, match="samples"):
        engine.finish_early(beams, 0)
    beams.future.result(timeout=60)


def test_request_past_its_deadline_fails(engine: Engine) -> None:
    request = engine.submit(tiny.prompts(1)[0], tiny.greedy(), deadline=time.monotonic() - 1)
    with pytest.raises(errors.DeadlineExceededError):
        request.future.result(timeout=10)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        ([tiny.VOCAB], "outside the vocabulary"),
        ([-1], "outside the vocabulary"),
        ([1] * 60, "64"),
    ],
)
def test_bad_prompt_is_refused_before_it_is_queued(
    engine: Engine, prompt: list[int], message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        engine.submit(np.array(prompt, np.int32), tiny.greedy())
    assert engine.pending == 0


def test_decoder_that_raises_fails_alone(engine: Engine) -> None:
    class Broken(SampleDecoder):
        def step(self, seqs, rows) -> Continue | None:  # type: ignore[no-untyped-def]
            raise ValueError("no choice")

    broken = engine.submit(np.array([3], np.int32), Broken(num_samples=1, max_steps=4, stop_ids=()))
    good = engine.submit(np.array([3], np.int32), tiny.greedy())
    with pytest.raises(errors.InternalError, match="no choice"):
        broken.future.result(timeout=10)
    assert good.future.result(timeout=10)


def test_nothing_compiles_after_the_constructor(engine: Engine) -> None:
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    requests = [engine.submit(p, BeamDecoder(BEAMS)) for p in tiny.prompts(9, seed=6)]
    concurrent.futures.wait([r.future for r in requests])
    assert compiled == []


def test_full_queue_refuses_at_once() -> None:
    with tiny.running(tiny.LLAMA, queue_capacity=2, max_rows=1, buckets=(1, 32)) as engine:
        gate = threading.Event()

        def blocked(_: object) -> None:
            gate.wait(10)

        decoder = SampleDecoder(num_samples=1, max_steps=50, stop_ids=())
        running = engine.submit(np.array([1], np.int32), decoder, on_step=blocked)
        requests = [running]

        def fill() -> None:
            for _ in range(10):
                requests.append(engine.submit(np.array([1], np.int32), tiny.greedy(2)))

        with pytest.raises(errors.ResourceExhaustedError, match="2"):
            fill()
        gate.set()
        concurrent.futures.wait([r.future for r in requests])


def test_stop_fails_what_is_in_flight_and_what_comes_later() -> None:
    with tiny.running(tiny.LLAMA) as engine:
        decoder = SampleDecoder(num_samples=1, max_steps=60, stop_ids=())
        request = engine.submit(
            np.array([1], np.int32), decoder, on_step=lambda _: time.sleep(0.01)
        )
        engine.stop()
        with pytest.raises(errors.UnavailableError):
            request.future.result(timeout=10)
        with pytest.raises(errors.UnavailableError):
            engine.submit(np.array([1], np.int32), tiny.greedy())


def test_metrics_add_up_to_what_was_served() -> None:
    with tiny.running(tiny.LLAMA, stop_ids=(tiny.STOP,)) as engine:
        gate, begun = threading.Event(), threading.Event()

        def blocked(_: object) -> None:
            begun.set()
            gate.wait(10)

        prompts = tiny.prompts(6, seed=8)
        cancelled = engine.submit(
            prompts[0],
            SampleDecoder(num_samples=1, max_steps=20, stop_ids=()),
            on_step=blocked,
        )
        served = [engine.submit(p, tiny.greedy(12)) for p in prompts]
        sampled = engine.submit(
            prompts[1],
            SampleDecoder(num_samples=3, max_steps=5, stop_ids=()),
            sampling=SamplingParams(temperature=1.0),
        )
        score = engine.submit(prompts[2], ScoreDecoder(prompts[2][1:]))
        late = engine.submit(prompts[3], tiny.greedy(), deadline=time.monotonic() - 1)
        assert begun.wait(60)
        engine.cancel(cancelled)
        gate.set()
        concurrent.futures.wait([r.future for r in [*served, sampled, score, late, cancelled]])
        answers = [r.future.result()[0].tokens.tolist() for r in served]
        m = engine.metrics
        length = sum(len(a) == 12 and a[-1] != tiny.STOP for a in answers)
        assert m.started == sum(m.finished.values()) == len(served) + 4
        assert m.finished == {
            Reason.STOP: len(served) - length,
            Reason.LENGTH: length + 1,
            Reason.DONE: 1,
            Reason.CANCELLED: 1,
            Reason.DEADLINE: 1,
            Reason.FAILED: 0,
        }
        assert m.without_token[Reason.DEADLINE] == sum(m.without_token.values()) == 1
        assert m.first_token_seconds.count == m.prefill_seconds.count == m.started - 1
        assert m.queue_seconds.count == m.started - 1
        assert m.request_seconds.count == m.decode_seconds.count + 1 == len(served) + 2
        tokens = sum(map(len, answers)) + 3 * 5
        # The cancelled one got some tokens too.
        assert tokens < m.generation_tokens <= tokens + 20
        assert m.step_seconds.count == engine.steps
        gauges = engine.gauges()
        assert gauges.running == gauges.waiting == gauges.queued_tokens == gauges.used_pages == 0
        assert gauges.turn_seconds < 60


def test_engine_whose_step_raises_fails_what_it_has_and_beats_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tiny.running(tiny.LLAMA) as engine:
        assert engine.failure is None

        def broken(*_: object) -> None:
            raise RuntimeError("device lost")

        monkeypatch.setattr(engine._device, "steps", dict.fromkeys(engine.options.buckets, broken))
        request = engine.submit(np.array([1], np.int32), tiny.greedy())
        with pytest.raises(errors.UnavailableError, match="the engine has failed: device lost"):
            request.future.result(timeout=10)
        assert "device lost" in str(engine.failure)
        assert engine.heartbeat.stall() is None
        with pytest.raises(errors.UnavailableError, match="device lost"):
            engine.submit(np.array([1], np.int32), tiny.greedy())
        assert engine.metrics.finished[Reason.FAILED] == engine.metrics.started == 1


def test_step_that_hangs_is_a_stall_and_does_not_hold_up_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "LEAST_LIMIT_S", 0.0)
    monkeypatch.setattr(engine_lib, "_STOP_WAIT_S", 0.1)
    gate, entered = threading.Event(), threading.Event()
    with tiny.running(tiny.LLAMA) as engine:
        real = engine._device.steps[1]

        def slow(*arguments: object) -> object:
            entered.set()
            gate.wait(30)
            return real(*arguments)

        monkeypatch.setitem(engine._device.steps, 1, slow)
        request = engine.submit(np.array([1], np.int32), tiny.greedy())
        entered.wait(30)
        time.sleep(0.01)
        assert engine.heartbeat.stall() is not None
        engine.stop()
        with pytest.raises(errors.UnavailableError, match="unloaded"):
            request.future.result(timeout=10)
        gate.set()
        engine._thread.join()
