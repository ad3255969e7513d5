"""The step loop: one thread that owns the scheduler's plans, the pages and all requests in flight.

  submit (any thread) -> Scheduler queue -> plan -> device step -> decoders -> advance or finish ->
  future

Nothing blocks the loop but the device; what a request's owner has to do with its tokens happens in
the owner's thread.
"""

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from saxml import native
from saxml.common import errors
from saxml.engine import choice, pace
from saxml.engine.beam import BeamDecoder
from saxml.engine.choosing import Choosing
from saxml.engine.decoders import (
    Decoder,
    Floats,
    Hypothesis,
    Ints,
    SampleDecoder,
    ScoreDecoder,
)
from saxml.engine.device import Device, Progress
from saxml.engine.embedding import EmbedDecoder, Embedders
from saxml.engine.flight import Flight
from saxml.engine.heartbeat import Heartbeat
from saxml.engine.metrics import EngineMetrics, Gauges
from saxml.engine.options import EngineOptions
from saxml.engine.request import STUCK, UNSOUND, Request, reason_of, refusal_of
from saxml.engine.sampling_params import SamplingParams
from saxml.models import sharding
from saxml.models.config import ModelConfig

_IDLE_WAIT_S = 1.0
# How long stop() waits for the step that runs.
_STOP_WAIT_S = 10.0
_NO_TARGETS = np.empty(0, np.int32)
_GREEDY = SamplingParams()


class Engine:
    """Decodes with one model. Compiles all its steps in the constructor; nothing is compiled
    afterwards."""

    def __init__(
        self,
        config: ModelConfig,
        params: Mapping[str, jax.Array],
        options: EngineOptions,
        mesh: Mesh,
        dtype: jax.typing.DTypeLike,
        *,
        progress: Progress = lambda message: None,
    ) -> None:
        """params: what registry.prepare gives, packed by options.backend. dtype: of the pages
        in plain JAX. progress: told about each compilation."""
        options.check_vocabulary(config.vocab_size)
        self.config = config
        self.options = options
        self._scheduler = native.Scheduler(
            num_pages=options.num_pages,
            page_size=options.page_size,
            max_rows=options.max_rows,
            buckets=list(options.buckets),
            max_model_len=options.max_model_len,
            queue_capacity=options.queue_capacity,
            max_queued_tokens=options.max_queued_tokens,
            row_params=choice.ROW_PARAMS,
            prefix_cache=options.prefix_cache,
        )
        self._requests: dict[int, Request] = {}
        self._embedders = Embedders()
        self._ids = itertools.count(1)
        # (request id, sample) that finish_early ends.
        self._early: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._failure: errors.SaxError | None = None
        self._stopping = False
        self.steps = 0
        self.steps_ahead = 0  # those dispatched before the last one was read
        self.metrics = EngineMetrics()
        self.heartbeat = Heartbeat()
        self._offsets = {
            bucket: self._scheduler.packed_offsets(bucket) for bucket in options.buckets
        }
        self._choosing = Choosing(
            options,
            config.vocab_size,
            self._offsets,
            sharding.replicated(mesh),
        )
        self._device = Device(
            config,
            options,
            params,
            self._offsets,
            self._choosing.nothing,
            mesh,
            dtype,
            progress,
        )
        self._flight: Flight | None = None
        self._landed = -math.inf
        self._set_pace(progress)
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def _set_pace(self, progress: Progress) -> None:
        """Measures what a step of each bucket takes, and bounds prompts beside decode rows by
        it."""
        o = self.options
        if o.prefill_stretch == math.inf:
            return
        seconds = self._device.measure()
        self.heartbeat.expect(max(seconds))
        largest = pace.mix(o.buckets, seconds, o.prefill_stretch)
        self._scheduler.set_mix(largest)
        for line in pace.lines(o.buckets, seconds, largest):
            progress(line)

    def submit(
        self,
        prompt: Ints,
        decoder: Decoder,
        *,
        deadline: float = math.inf,
        sampling: SamplingParams = _GREEDY,
        priority: int = 0,
        cache_salt: int = 0,
        cache_read: bool = True,
        on_step: Callable[[list[Hypothesis]], None] | None = None,
    ) -> Request:
        """Queues a request; any thread.

        prompt i32[n]; deadline on time.monotonic's clock; sampling concerns a SampleDecoder;
        requests of a higher priority start first, and if need be others make way for them and go
        on later; cache_salt, unsigned 64 bits: keys and values of prompts that begin alike are
        shared among requests with the same one; without cache_read all of the prompt is computed,
        though others may use it; on_step is called in the engine's thread after each of the
        request's steps with what there is, and must not block.

        Raises InvalidArgumentError for a prompt that cannot be served, ResourceExhaustedError when
        the queue is full, UnavailableError when the engine is stopped or broken.
        """
        if self._failure is not None:
            raise self._failure
        if outside := prompt[(prompt < 0) | (prompt >= self.config.vocab_size)].tolist():
            raise errors.InvalidArgumentError(
                f"token id {outside[0]} is outside the vocabulary of {self.config.vocab_size}"
            )
        request = Request(next(self._ids), decoder, len(prompt), deadline=deadline, on_step=on_step)
        self._requests[request.id] = request
        if isinstance(decoder, EmbedDecoder):
            self._embedders.add(request.id, decoder)
            cache_read = cache_read and decoder.cache_read
        try:
            self._scheduler.submit(
                request.id,
                np.ascontiguousarray(prompt, np.int32),
                width=decoder.width,
                fork_at_start=decoder.fork_at_start,
                max_new_tokens=decoder.max_new_tokens,
                targets=decoder.targets if isinstance(decoder, ScoreDecoder) else _NO_TARGETS,
                row_params=self._choosing.register(request.id, prompt, decoder, sampling),
                deadline=deadline,
                priority=priority,
                cache_salt=cache_salt,
                cache_read=cache_read,
            )
        except (errors.SaxError, native.QueueFullError, ValueError) as e:
            del self._requests[request.id]
            raise refusal_of(e) from None
        self.metrics.submitted()
        if self._failure is not None:  # the loop ended between the first look and the queue
            self._fail(request.id, self._failure)
        return request

    def cancel(self, request: Request) -> None:
        """Gives up a request; its pages are free within one step. Does nothing if it has
        finished."""
        request.note_cancelled()
        self._scheduler.cancel(request.id)

    def finish_early(self, request: Request, sample: int) -> None:
        """Ends a sample where it is, before the next step; its request has finished when all its
        samples have ended. Does nothing if it has finished. Any thread.

        Raises ValueError if the request has no such sample.
        """
        if not isinstance(request.decoder, SampleDecoder):
            raise ValueError("only a request that samples can finish early")
        if not 0 <= sample < request.decoder.width:
            raise ValueError(f"sample {sample}: the request has {request.decoder.width}")
        self._early.put((request.id, sample))
        self._scheduler.wake()

    def check_integrity(self) -> None:
        """Raises if a page is lost or used twice. Call it while nothing runs."""
        self._scheduler.check_integrity()

    @property
    def pending(self) -> int:
        """Requests that wait or run."""
        return len(self._requests)

    @property
    def failure(self) -> errors.SaxError | None:
        """Why the engine broke, if it did; being stopped is no failure."""
        return None if self._stopping else self._failure

    def gauges(self) -> Gauges:
        """How it is now; any thread."""
        scheduler = self._scheduler
        return Gauges(
            running=scheduler.running,
            waiting=scheduler.waiting,
            queued_tokens=scheduler.queued_tokens,
            page_size=self.options.page_size,
            pages=self.options.num_pages,
            used_pages=scheduler.used_pages,
            cached_pages=scheduler.cached_pages,
            used_tokens=scheduler.used_tokens,
            preemptions=scheduler.preemptions,
            stuck=scheduler.stuck,
            prefix_queried_tokens=scheduler.prefix_queried_tokens,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            turn_seconds=self.heartbeat.seconds,
        )

    def stop(self) -> None:
        """Ends the loop; requests in flight fail with UNAVAILABLE.

        A step that does not end in time is left behind, with the memory it uses.
        """
        self._stopping = True
        self._scheduler.wake()
        self._thread.join(_STOP_WAIT_S)
        if self._thread.is_alive():
            logging.error("the engine is stopped while a step still runs")
            self._end(errors.UnavailableError("the model is being unloaded"))
            return
        self._device.release()

    def _loop(self) -> None:
        try:
            while not self._stopping:
                self.heartbeat.beat()
                if self._flight is not None or self._scheduler.wait(_IDLE_WAIT_S):
                    self._step()
            failure = errors.UnavailableError("the model is being unloaded")
        except Exception as e:
            logging.exception("the engine's step failed; the model cannot go on")
            failure = errors.UnavailableError(f"the engine has failed: {e}")
        in_flight = list(self._requests)
        self._end(failure)
        for request_id in in_flight:
            self._scheduler.finish(request_id)

    def _end(self, failure: errors.SaxError) -> None:
        """From now on nothing is served; whoever waits is told."""
        self._failure = failure
        self.heartbeat.stop()
        for request_id in list(self._requests):
            self._fail(request_id, failure)

    def _step(self) -> None:
        """One turn: plans and dispatches a step, and reads the last one; before that, unless its
        requests can go on without being told their tokens."""
        self._end_samples()
        if self._flight is not None and not self._run_ahead():
            self._land()
        start = time.monotonic()
        plan = self._scheduler.plan(start)
        for request_id, reason in self._scheduler.take_dropped():
            request = self._requests.get(request_id)
            late = request is not None and request.was_late
            if reason == native.DropReason.STUCK:
                logging.error("request %d kept the engine from going on", request_id)
                self._fail(request_id, STUCK)
            elif reason == native.DropReason.EXPIRED or late:
                self._fail(request_id, errors.DeadlineExceededError("deadline exceeded"))
            else:
                self._fail(request_id, errors.CancelledError("cancelled by the client"))
        flight = None if plan is None else self._dispatch(plan, start)
        self.steps_ahead += self._flight is not None and flight is not None
        self._land(following=flight)
        self._flight = flight
        if not self.options.run_ahead:
            self._land()

    def _run_ahead(self) -> bool:
        """Has all requests of the step in flight go on before it is read; False: it must be read
        first."""
        assert self._flight is not None
        requests = self._flight.requests()
        for request_id in requests:
            request = self._requests.get(request_id)
            if request is None:
                continue
            if isinstance(request.decoder, BeamDecoder) or self._choosing.needs_tokens(request_id):
                return False
        return self._scheduler.run_ahead(requests)

    def _dispatch(self, plan: native.StepPlan, start: float) -> Flight:
        for request_id in plan.row_request[plan.num_decode_rows :].tolist():
            if (request := self._requests.get(request_id)) is not None:
                self.metrics.admitted(request.timeline, start)
        changes = self._choosing.changes(plan, self._requests)
        found, hidden = self._device.run(plan, changes)
        self.steps += 1
        first = self._offsets[plan.bucket]["entry_sample"][0]
        samples = plan.packed[first : first + plan.num_entries]
        return Flight(plan, start, found, hidden, samples, plan.entry_request.tolist())

    def _land(self, *, following: Flight | None = None) -> None:
        """Reads the step in flight, if there is one, and hands out what it found. `following`: the
        next one, which was dispatched before that."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        if self._embedders:
            self._embedders.take(flight.plan, self._offsets[flight.plan.bucket], flight.hidden)
        rows = flight.wait()
        start, now = max(flight.start, self._landed), time.monotonic()
        self._landed = now
        for owner, seqs, found, sound in flight.by_request(rows):
            if sound:
                self._decode(owner, seqs, found, now, following)
            else:
                self._scheduler.finish(owner)
                self._fail(owner, UNSOUND)
        self.metrics.stepped(flight.plan.num_tokens, flight.plan.num_rows, start, now)

    def _decode(
        self, request_id: int, seqs: Ints, rows: Floats, now: float, following: Flight | None
    ) -> None:
        """Hands a request its rows, which came at `now`; whatever goes wrong there concerns this
        request alone. `following`: see `_land`."""
        request = self._requests.get(request_id)
        if request is None:
            self._scheduler.finish(request_id)
            return
        try:
            self.metrics.emitted(request.timeline, len(seqs), now)
            going_on = request.decoder.step(seqs, rows)
            if going_on is None:
                self._complete(request)
                return
            if len(going_on.parents):
                self._choosing.chosen(request_id, going_on)
                if following is None:
                    self._scheduler.advance(
                        request_id, going_on.parents, going_on.tokens, going_on.samples
                    )
                else:
                    assert going_on.samples is not None
                    following.going_on[request_id] = going_on.samples
                    self._scheduler.resolve(request_id, going_on.samples, going_on.tokens)
            if request.on_step is not None:
                request.on_step(request.decoder.results())
        except Exception as e:
            logging.exception("request %d failed in its decoder", request_id)
            self._scheduler.finish(request_id)
            self._fail(request_id, errors.InternalError(f"decoding failed: {e}"))

    def _end_samples(self) -> None:
        while not self._early.empty():
            request_id, sample = self._early.get_nowait()
            request = self._requests.get(request_id)
            if request is None:
                continue
            assert isinstance(request.decoder, SampleDecoder)
            if request.decoder.end(sample):
                self._complete(request)

    def _complete(self, request: Request) -> None:
        self._scheduler.finish(request.id)
        results = request.decoder.results()
        del self._requests[request.id]
        reason = request.reason(results, self.options.stop_ids)
        self.metrics.finished_with(request.timeline, reason, time.monotonic())
        request.future.set_result(results)

    def _fail(self, request_id: int, error: errors.SaxError) -> None:
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self.metrics.finished_with(request.timeline, reason_of(error), time.monotonic())
        request.future.set_exception(error)
