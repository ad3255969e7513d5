"""A loaded language model: the methods that a client may call on it."""

import contextlib
import time
from collections.abc import Iterator
from typing import Self

import numpy as np
from absl import logging

from saxml.common import errors
from saxml.common.clock import Clock
from saxml.engine.decoders import Hypothesis
from saxml.engine.embedding import EmbedDecoder
from saxml.engine.gradient import Gradient
from saxml.engine.heartbeat import Stall
from saxml.engine.metrics import EngineMetrics, Gauges
from saxml.proto import common_pb2, lm_pb2
from saxml.server import extra_inputs, loading
from saxml.server.generate_inputs import GenerateInputs, RequestInputs
from saxml.server.generation import Generation, geometric_mean
from saxml.server.loading import Loaded, LoadOptions
from saxml.server.pax.lm.params.template import CommonServingTemplate
from saxml.server.scoring import Scoring
from saxml.server.servable import OnCancel
from saxml.server.stats import MethodStats

GENERATE = "lm.generate"
GENERATE_STREAM = "lm.generate_stream"
SCORE = "lm.score"
EMBED = "lm.embed"
GRADIENT = "lm.gradient"
_SHORTEST = 1e-12  # of a vector that is scaled to length 1


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
        self._codec = loaded.codec
        self._differentiator = loaded.differentiator
        self._generation = Generation(loaded)
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
    ) -> lm_pb2.GenerateResponse:
        """All beams or samples, best first."""
        with self._asked(GENERATE, extra) as asked:
            run = self._generation.run(text, asked, deadline, on_cancel, follow=False)
            with run as running:
                for _ in running.follow():
                    pass
                return running.response(
                    sort=self._params.SORT_SAMPLES and not self._params.USE_BEAM_SEARCH
                )

    def generate_stream(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> Iterator[lm_pb2.GenerateStreamResponse]:
        """Yields, after every STREAM_INTERVAL_STEPS steps and at the end, what is new of each
        sample, in its place, or of the best beams so far, best first (see BeamDecoder). No text
        ends inside a character."""
        with self._asked(GENERATE_STREAM, extra) as asked:
            run = self._generation.run(text, asked, deadline, on_cancel, follow=True)
            with run as running:
                told = 0
                for steps in running.follow():
                    if steps - told >= self._params.STREAM_INTERVAL_STEPS:
                        told = steps
                        yield running.changes()
                yield running.changes()

    def score(
        self,
        prefix: str,
        suffixes: list[str],
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
    ) -> list[float]:
        """log p(suffix | prefix) of each suffix."""
        self._check_offered(SCORE)
        asked = RequestInputs.parse(
            extra_inputs.merge(
                extra, self._params.SCORE_EXTRA_INPUTS, always=extra_inputs.REQUEST_KEYS
            ),
            self._params,
        )
        with self.stats[SCORE].admit(self.key):
            if not suffixes:
                raise errors.InvalidArgumentError("there is no suffix to score")
            encoded = [self._codec.scored(prefix, suffix) for suffix in suffixes]
            scoring = Scoring(self._engine, asked, deadline, on_cancel)
            return [self._score_of(h) for h in scoring.run(encoded)]

    def embed(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> list[float]:
        """The hidden states of a text, pooled as the configuration says."""
        self._check_offered(EMBED)
        asked = RequestInputs.parse(
            extra_inputs.merge(extra, {}, always=extra_inputs.REQUEST_KEYS), self._params
        )
        with self.stats[EMBED].admit(self.key):
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
        self._check_offered(GRADIENT)
        assert self._differentiator is not None
        extra_inputs.merge(extra, {})
        with self.stats[GRADIENT].admit(self.key):
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

    def _check_offered(self, method: str) -> None:
        if method not in self.stats:
            raise errors.InvalidArgumentError(
                f"{self.key} does not offer {method}; it offers {', '.join(sorted(self.stats))}"
            )

    @contextlib.contextmanager
    def _asked(self, method: str, extra: common_pb2.ExtraInputs) -> Iterator[GenerateInputs]:
        """Around one call: first what it asks for is looked at, then it is admitted."""
        self._check_offered(method)
        asked = self._generation.inputs(extra)
        with self.stats[method].admit(self.key):
            yield asked

    def _score_of(self, hypothesis: Hypothesis) -> float:
        if self._params.SCORING_USE_GEOMEAN_PROB_SCORE:
            return geometric_mean(hypothesis)
        return hypothesis.score
