"""sax.server.lm.LMService: the data path."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from saxml.common import errors
from saxml.proto import lm_pb2, lm_pb2_grpc
from saxml.server.lifecycle import ModelTable
from saxml.server.servable import Servable

# When a call that found no thread had better come again.
_RETRY_S = 0.5


class LmService(lm_pb2_grpc.LMServiceServicer):
    """Errors are raised as SaxError; the server's interceptor gives them their status."""

    def __init__(self, models: ModelTable, max_calls: int) -> None:
        """max_calls: of all models together; each holds a thread of the server while it lasts."""
        self._models = models
        self._max_calls = max_calls
        self._room = threading.BoundedSemaphore(max_calls)

    def Generate(  # noqa: N802
        self, request: lm_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> lm_pb2.GenerateResponse:
        """All beams or samples, best first."""
        with self._served(request.model_key) as servable:
            return servable.generate(
                request.text, request.extra_inputs, _deadline(context), _on_cancel(context)
            )

    def GenerateStream(  # noqa: N802
        self, request: lm_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[lm_pb2.GenerateStreamResponse]:
        """Text as it comes."""
        with self._served(request.model_key) as servable:
            yield from servable.generate_stream(
                request.text, request.extra_inputs, _deadline(context), _on_cancel(context)
            )

    def Score(  # noqa: N802
        self, request: lm_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> lm_pb2.ScoreResponse:
        """log p of each suffix."""
        with self._served(request.model_key) as servable:
            logp = servable.score(
                request.prefix,
                list(request.suffix),
                request.extra_inputs,
                _deadline(context),
                _on_cancel(context),
            )
        return lm_pb2.ScoreResponse(logp=logp)

    def Embed(  # noqa: N802
        self, request: lm_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> lm_pb2.EmbedResponse:
        """A vector for a text."""
        with self._served(request.model_key) as servable:
            embedding = servable.embed(
                request.text, request.extra_inputs, _deadline(context), _on_cancel(context)
            )
        return lm_pb2.EmbedResponse(embedding=embedding)

    def Gradient(  # noqa: N802
        self, request: lm_pb2.GradientRequest, context: grpc.ServicerContext
    ) -> lm_pb2.GradientResponse:
        """Score of a suffix, and its gradients, flattened in C order."""
        with self._served(request.model_key) as servable:
            found = servable.gradient(
                request.prefix,
                request.suffix,
                request.extra_inputs,
                _deadline(context),
                _on_cancel(context),
            )
        return lm_pb2.GradientResponse(
            score=[found.score],
            gradients={
                name: lm_pb2.GradientResponse.Gradient(values=tensor.ravel())
                for name, tensor in found.tensors.items()
            },
        )

    @contextlib.contextmanager
    def _served(self, key: str) -> Iterator[Servable]:
        """Around one call: its model, if the server has a thread to spare.

        Others would wait for one unseen, and with them what must never wait: the admin server's
        questions, health.
        """
        servable = self._models.get(key)
        if not self._room.acquire(blocking=False):
            full = errors.ResourceExhaustedError(
                f"Too many requests: this model server serves {self._max_calls} of all its models"
            )
            full.retry_after_s = _RETRY_S
            raise full
        try:
            yield servable
        finally:
            self._room.release()


def _deadline(context: grpc.ServicerContext) -> float:
    seconds = context.time_remaining()
    return math.inf if seconds is None else time.monotonic() + seconds


def _on_cancel(context: grpc.ServicerContext) -> Callable[[Callable[[], None]], None]:
    def register(cancel: Callable[[], None]) -> None:
        if not context.add_callback(cancel):
            cancel()

    return register
