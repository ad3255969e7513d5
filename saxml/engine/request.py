"""One request in flight, as the engine's loop and its owner share it."""

import concurrent.futures
import math
import time
from collections.abc import Callable, Collection

import grpc

from saxml import native
from saxml.common import errors
from saxml.engine.decoders import Decoder, Hypothesis, SampleDecoder
from saxml.engine.metrics import Reason, Timeline

# gRPC cancels a call when its deadline comes, a little before we see it.
_LATE_S = 0.1
_REASONS = {
    grpc.StatusCode.CANCELLED: Reason.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE,
}

UNSOUND = errors.InternalError(
    "the model's logits for this request are not finite (NaN or infinity); its weights, or the"
    " arithmetic of its device, are at fault"
)
STUCK = errors.InternalError(
    "no step could be planned for this request, which is a bug of the scheduler; please report it"
    " with the model's options and the request's lengths"
)


class Request:
    """`future` gets its hypotheses, or a SaxError."""

    def __init__(
        self,
        request_id: int,
        decoder: Decoder,
        prompt_tokens: int,
        *,
        deadline: float = math.inf,
        on_step: Callable[[list[Hypothesis]], None] | None = None,
    ) -> None:
        """deadline on time.monotonic's clock; on_step as Engine.submit has it."""
        self.id = request_id
        self.decoder = decoder
        self.deadline = deadline
        self.on_step = on_step
        self.timeline = Timeline(prompt_tokens, generates=decoder.max_new_tokens > 0)
        self.future: concurrent.futures.Future[list[Hypothesis]] = concurrent.futures.Future()
        self._cancelled = -math.inf

    def note_cancelled(self) -> None:
        """Its owner gives it up now."""
        self._cancelled = time.monotonic()

    @property
    def was_cancelled(self) -> bool:
        """Whether its owner has given it up."""
        return self._cancelled > -math.inf

    @property
    def was_late(self) -> bool:
        """Whether it was given up because its deadline came."""
        return self._cancelled > self.deadline - _LATE_S

    def reason(self, results: list[Hypothesis], model_stop_ids: Collection[int]) -> Reason:
        """How it came to its end, which `results` are."""
        most = self.decoder.max_new_tokens
        if most == 0:
            return Reason.DONE
        longest = [r.tokens for r in results if len(r.tokens) == most]
        if isinstance(self.decoder, SampleDecoder):
            cut = not all(map(self.decoder.stops, longest))
        else:
            cut = any(int(tokens[-1]) not in model_stop_ids for tokens in longest)
        return Reason.LENGTH if cut else Reason.STOP


def reason_of(error: errors.SaxError) -> Reason:
    """Why a request ended that was not answered."""
    return _REASONS.get(error.code, Reason.FAILED)


def refusal_of(error: Exception) -> errors.SaxError:
    """What the owner of a request is told that the scheduler, or the choice of tokens, did not
    take."""
    if isinstance(error, errors.SaxError):
        return error
    if isinstance(error, native.QueueFullError):
        return errors.ResourceExhaustedError(str(error))
    return errors.InvalidArgumentError(str(error))
