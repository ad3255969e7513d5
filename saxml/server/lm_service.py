"""sax.server.lm.LMService: the data path."""

import math
import time
from collections.abc import Callable, Iterator

import grpc

from saxml.proto import lm_pb2, lm_pb2_grpc
from saxml.server.lifecycle import ModelTable


class LmService(lm_pb2_grpc.LMServiceServicer):
    """Errors are raised as SaxError; the server's interceptor gives them their status."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    def Generate(  # noqa: N802
        self, request: lm_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> lm_pb2.GenerateResponse:
        """All beams or samples, best first."""
        found = self._models.get(request.model_key).generate(
            request.text, request.extra_inputs, _deadline(context), _on_cancel(context)
        )
        return lm_pb2.GenerateResponse(
            texts=[lm_pb2.DecodedText(text=text, score=score) for text, score in found]
        )

    def GenerateStream(  # noqa: N802
        self, request: lm_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[lm_pb2.GenerateStreamResponse]:
        """Text as it comes: results[i] = results[i][:prefix_len] + text, counted in characters."""
        servable = self._models.get(request.model_key)
        for items in servable.generate_stream(
            request.text, request.extra_inputs, _deadline(context), _on_cancel(context)
        ):
            yield lm_pb2.GenerateStreamResponse(
                items=[
                    lm_pb2.GenerateStreamItem(text=text, prefix_len=kept, scores=[score])
                    for text, kept, score in items
                ]
            )

    def Score(  # noqa: N802
        self, request: lm_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> lm_pb2.ScoreResponse:
        """log p of each suffix."""
        return lm_pb2.ScoreResponse(
            logp=self._models.get(request.model_key).score(
                request.prefix,
                list(request.suffix),
                request.extra_inputs,
                _deadline(context),
                _on_cancel(context),
            )
        )

    def Embed(  # noqa: N802
        self, request: lm_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> lm_pb2.EmbedResponse:
        """A vector for a text."""
        return lm_pb2.EmbedResponse(
            embedding=self._models.get(request.model_key).embed(
                request.text, request.extra_inputs, _deadline(context), _on_cancel(context)
            )
        )

    def Gradient(  # noqa: N802
        self, request: lm_pb2.GradientRequest, context: grpc.ServicerContext
    ) -> lm_pb2.GradientResponse:
        """Score of a suffix, and its gradients, flattened in C order."""
        found = self._models.get(request.model_key).gradient(
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


def _deadline(context: grpc.ServicerContext) -> float:
    seconds = context.time_remaining()
    return math.inf if seconds is None else time.monotonic() + seconds


def _on_cancel(context: grpc.ServicerContext) -> Callable[[Callable[[], None]], None]:
    def register(cancel: Callable[[], None]) -> None:
        if not context.add_callback(cancel):
            cancel()

    return register
