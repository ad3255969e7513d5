"""A loaded language model: the methods that a client may call on it."""

import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Iterator
from typing import Self

import numpy as np
from absl import logging

from saxml.common import errors
from saxml.common.clock import Clock
from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import Decoder, Hypothesis, SampleDecoder, ScoreDecoder
from saxml.engine.embedding import EmbedDecoder
from saxml.engine.engine import Request
from saxml.engine.gradient import Gradient
from saxml.engine.heartbeat import Stall
from saxml.engine.metrics import EngineMetrics, Gauges
from saxml.proto import common_pb2
from saxml.server import extra_inputs, loading
from saxml.server.answers import Answers
from saxml.server.generate_inputs import GenerateInputs, RequestInputs
from saxml.server.loading import Loaded, LoadOptions
from saxml.server.pax.lm.params.template import CommonServingTemplate
from saxml.server.servable import OnCancel
from saxml.server.stats import MethodStats
from saxml.server.updates import Updates

GENERATE = "lm.generate"
GENERATE_STREAM = "lm.generate_stream"
SCORE = "lm.score"
EMBED = "lm.embed"
GRADIENT = "lm.gradient"
# Steps that a slow reader of a stream may lag behind before it misses some.
_BACKLOG = 64
_SHORTEST = 1e-12  # of a vector that is scaled to length 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Running:
    """A request in flight."""

    request: Request
    updates: Updates
    answers: Answers


class LmServable:
    """Thread-safe; calls block until their answer is there. Deadlines are on time.monotonic's
    clock."""

    @classmethod
    def load(
        cls,
        key: str,
        params: CommonServingTemplate,
        checkpoint: str,
        options: LoadOptions,
        clock: Clock,
    ) -> Self:
        """Restores and compiles a model; takes as long as that takes. Raises SaxError."""
        loaded = loading.load(params, checkpoint, options)
        servable = cls(key, loaded, clock)
        logging.info("loading completed.")
        return servable

    def __init__(self, key: str, loaded: Loaded, clock: Clock) -> None:
        self.key = key
        self._params = loaded.params
        self._engine = loaded.engine
        self._beam = loaded.beam
        self._codec = loaded.codec
        self._differentiator = loaded.differentiator
        # For samples whose request has no seed.
        self._seeds = random.Random(loaded.seed)
        p = loaded.params
        offered = {
            GENERATE: p.ENABLE_GENERATE and not p.SCORE_ONLY,
            GENERATE_STREAM: p.ENABLE_GENERATE_STREAM and not p.SCORE_ONLY,
            SCORE: not p.GENERATE_ONLY,
            EMBED: p.offers_embeddings,
            GRADIENT: self._differentiator is not None,
        }
        limits = {EMBED: p.max_live_embeddings}
        self.stats = {
            name: MethodStats(
                name,
                limits.get(name, p.max_live_requests),
                clock,
                batch_size=p.NUM_CACHE_SLOTS or p.batch_size,
            )
            for name, on in offered.items()
            if on
        }

    @property
    def failure(self) -> errors.SaxError | None:
        """Why it cannot go on, if it cannot; having been unloaded is no failure."""
        return self._engine.failure

    @property
    def stall(self) -> Stall | None:
        """What its engine is at for too long, if it is."""
        return self._engine.heartbeat.stall()

    @property
    def metrics(self) -> EngineMetrics:
        """What its engine has done."""
        return self._engine.metrics

    def gauges(self) -> Gauges:
        """How its engine is now."""
        return self._engine.gauges()

    def generate(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> list[tuple[str, float]]:
        """(text, score) of each beam or sample, best first."""
        with self._admit(GENERATE):
            running = self._start(text, extra, deadline, on_cancel, stream=False)
            with self._given_up_on_failure(running.request):
                for _ in self._follow(running):
                    pass
                found = running.answers.results()
            if self._params.SORT_SAMPLES and self._beam is None:
                found.sort(key=lambda result: -result[1])
            return found

    def generate_stream(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> Iterator[list[tuple[str, int, float]]]:
        """Yields, after every STREAM_INTERVAL_STEPS steps and at the end, (new text, characters of
        the text so far that stay, what is added to the score) of each sample, in its place, or of
        the best beams so far, best first (see BeamDecoder). No text ends inside a character."""
        with self._admit(GENERATE_STREAM):
            running = self._start(text, extra, deadline, on_cancel, stream=True)
            with self._given_up_on_failure(running.request):
                told = 0
                for steps in self._follow(running):
                    if steps - told >= self._params.STREAM_INTERVAL_STEPS:
                        told = steps
                        yield running.answers.changes()
                yield running.answers.changes()

    def score(
        self,
        prefix: str,
        suffixes: list[str],
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
    ) -> list[float]:
        """log p(suffix | prefix) of each suffix."""
        with self._admit(SCORE):
            asked = RequestInputs.parse(
                extra_inputs.merge(
                    extra, self._params.SCORE_EXTRA_INPUTS, always=extra_inputs.REQUEST_KEYS
                )
            )
            if not suffixes:
                raise errors.InvalidArgumentError("there is no suffix to score")
            encoded = [self._codec.scored(prefix, suffix) for suffix in suffixes]
            requests: list[Request] = []

            def cancel() -> None:
                for request in requests:
                    self._engine.cancel(request)

            on_cancel(cancel)
            try:
                for inputs, targets in encoded:
                    requests.append(
                        self._engine.submit(
                            inputs,
                            ScoreDecoder(targets),
                            deadline=deadline,
                            priority=asked.priority,
                            cache_salt=asked.cache_salt,
                        )
                    )
                return [self._score_of(r.future.result()[0]) for r in requests]
            except errors.SaxError:
                cancel()
                raise

    def embed(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> list[float]:
        """The hidden states of a text, pooled as the configuration says."""
        with self._admit(EMBED):
            asked = RequestInputs.parse(
                extra_inputs.merge(extra, {}, always=extra_inputs.REQUEST_KEYS)
            )
            prompt = self._codec.embedded(text)
            decoder = EmbedDecoder(len(prompt), self._params.EMBEDDING_POOLING)
            request = self._engine.submit(
                prompt,
                decoder,
                deadline=deadline,
                priority=asked.priority,
                cache_salt=asked.cache_salt,
            )
            on_cancel(lambda: self._engine.cancel(request))
            request.future.result()
            vector = decoder.embedding.astype(np.float64)
            if self._params.EMBEDDING_NORMALIZE:
                vector /= max(float(np.linalg.norm(vector)), _SHORTEST)
            return [*map(float, vector)]

    def gradient(
        self,
        prefix: str,
        suffix: str,
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
    ) -> Gradient:
        """Score of a suffix, what `score` gives for it, and its gradients by tensor name."""
        with self._admit(GRADIENT):
            assert self._differentiator is not None
            extra_inputs.merge(extra, {})
            inputs, targets = self._codec.scored(prefix, suffix)
            return self._differentiator.differentiate(inputs, targets, deadline, on_cancel)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Whether all calls have ended, at the latest after timeout_s."""
        end = time.monotonic() + timeout_s
        return all(
            stats.wait_until_idle(max(0.0, end - time.monotonic())) for stats in self.stats.values()
        )

    def unload(self) -> None:
        """Stops the engine; calls in flight fail with UNAVAILABLE."""
        self._engine.stop()
        if self._differentiator is not None:
            self._differentiator.stop()

    def check_integrity(self) -> None:
        """Raises if a page is lost; call it while nothing runs."""
        self._engine.check_integrity()

    def _admit(self, method: str):  # type: ignore[no-untyped-def]
        if method not in self.stats:
            raise errors.InvalidArgumentError(
                f"{self.key} does not offer {method}; it offers {', '.join(sorted(self.stats))}"
            )
        return self.stats[method].admit(self.key)

    @contextlib.contextmanager
    def _given_up_on_failure(self, request: Request) -> Iterator[None]:
        """A request whose answers cannot be made, or are not wanted any more, keeps no pages."""
        try:
            yield
        except BaseException:
            self._engine.cancel(request)
            raise

    def _start(
        self,
        text: str,
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
        *,
        stream: bool,
    ) -> "_Running":
        asked = GenerateInputs.parse(
            extra, self._params, self._engine.config.vocab_size, lambda: self._seeds.getrandbits(31)
        )
        stops = self._codec.stops(asked.stops)
        prompt = self._codec.prompt(text)
        decoder = self._decoder(asked, len(prompt))
        # The score of a text that a stop string ends is that of the step which completed it.
        updates = Updates(None if stops else _BACKLOG)
        request = self._engine.submit(
            prompt,
            decoder,
            deadline=deadline,
            sampling=asked.sampling,
            priority=asked.request.priority,
            cache_salt=asked.request.cache_salt,
            # Who looks at the end alone need not be told of every step.
            on_step=updates.put if stream or stops else None,
        )
        on_cancel(lambda: self._engine.cancel(request))
        request.future.add_done_callback(lambda _: updates.end())
        answers = Answers(
            decoder.width,
            self._codec,
            stops=stops,
            eos=asked.eos,
            prefix=self._codec.answer_prefix(text),
            score_of=self._final_score,
        )
        return _Running(request, updates, answers)

    def _decoder(self, asked: GenerateInputs, prompt_tokens: int) -> Decoder:
        p = self._params
        max_steps = min(asked.max_steps, p.max_seq_len - prompt_tokens)
        if self._beam is not None:
            return BeamDecoder(self._beam.shortened(max_steps, min_steps=asked.sampling.min_steps))
        if asked.eos:
            return SampleDecoder(
                num_samples=asked.num_samples,
                max_steps=max_steps,
                stop_ids=(),
                stop_sequences=(asked.eos,),
            )
        return SampleDecoder(
            num_samples=asked.num_samples, max_steps=max_steps, stop_ids=p.stop_ids
        )

    def _follow(self, running: "_Running") -> Iterator[int]:
        """Brings the answers up to date after each step, gives the number of the step, and ends
        when they are complete."""
        while (update := running.updates.get()) is not None:
            steps, hypotheses = update
            for sample in running.answers.update(hypotheses):
                self._engine.finish_early(running.request, sample)
            if running.answers.all_stopped:
                return
            yield steps
        running.answers.finish(running.request.future.result())

    def _final_score(self, hypothesis: Hypothesis) -> float:
        if self._params.GENERATION_USE_GEOMEAN_PROB_SCORE and self._beam is None:
            return _geometric_mean(hypothesis)
        return hypothesis.score

    def _score_of(self, hypothesis: Hypothesis) -> float:
        if self._params.SCORING_USE_GEOMEAN_PROB_SCORE:
            return _geometric_mean(hypothesis)
        return hypothesis.score


def _geometric_mean(hypothesis: Hypothesis) -> float:
    return math.exp(hypothesis.score / max(1, len(hypothesis.tokens)))
