"""Errors with a gRPC status: raised by libraries, mapped to the wire in one place.

raise NotFoundError(f"model {key} not found")
server = grpc.server(pool, interceptors=[StatusInterceptor()])
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import grpc

# Trailing metadata of an error: milliseconds after which to try again, ASCII decimal.
RETRY_METADATA = "retry-after-ms"

_logger = logging.getLogger(__name__)


class SaxError(Exception):
    """Something went wrong, in words for the user; `code` is what the wire says of it."""

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    # When the same request has better chances, if that is known.
    retry_after_s: float | None = None


class InvalidArgumentError(SaxError):
    """The request can never succeed."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(SaxError):
    """What the request names is not there."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(SaxError):
    """What the request would create is there."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPreconditionError(SaxError):
    """Something must be set right by a person before this can succeed."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class UnavailableError(SaxError):
    """Not now; the same request may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhaustedError(SaxError):
    """A limit is reached; the same request may succeed later."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class PermissionDeniedError(SaxError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class UnimplementedError(SaxError):
    """This software does not do that."""

    code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(SaxError):
    """A defect on our side."""

    code = grpc.StatusCode.INTERNAL


class DeadlineExceededError(SaxError):
    """The time given for it is over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CancelledError(SaxError):
    """The caller, or what the call waited for, went away."""

    code = grpc.StatusCode.CANCELLED


class AbortedError(SaxError):
    """Somebody else was faster; read again and retry."""

    code = grpc.StatusCode.ABORTED


_BY_CODE: dict[grpc.StatusCode, type[SaxError]] = {
    c.code: c
    for c in (
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        FailedPreconditionError,
        UnavailableError,
        ResourceExhaustedError,
        PermissionDeniedError,
        UnimplementedError,
        InternalError,
        DeadlineExceededError,
        CancelledError,
        AbortedError,
    )
}


def from_code(code: grpc.StatusCode, message: str) -> SaxError:
    """The error class of `code`; a code without one becomes a SaxError that carries it."""
    error = _BY_CODE.get(code, SaxError)(message)
    error.code = code
    return error


def from_rpc_error(error: grpc.RpcError) -> SaxError:
    """What a failed call said, as one of our errors."""
    # The errors of grpc.aio are no grpc.Call, but they answer the same questions.
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = error.details() if hasattr(error, "details") else str(error)
    ours = from_code(code, details or "")
    trailers: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in trailers or ():
        if key == RETRY_METADATA and isinstance(value, str) and value.isdecimal():
            ours.retry_after_s = int(value[:9]) / 1000
    return ours


if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.ServerInterceptor


class StatusInterceptor(_Interceptor):
    """Gives each exception of a handler its status.

    SaxError: its code and text. ValueError: INVALID_ARGUMENT. grpc.RpcError, from a call made on
    behalf of the caller: its code. Anything else: INTERNAL, logged with its traceback. A handler
    that aborted by itself is left alone.
    """

    _PLAIN: ClassVar[tuple[type[Exception], ...]] = (SaxError, ValueError, grpc.RpcError)

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        handler: Any = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        def unary(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            def call(request: Any, context: grpc.ServicerContext) -> Any:
                try:
                    check_read(request)
                    return behaviour(request, context)
                except Exception as error:
                    self._abort(method, error, context)

            return call

        def stream(behaviour: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Any]:
            def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
                try:
                    check_read(request)
                    yield from behaviour(request, context)
                except Exception as error:
                    self._abort(method, error, context)

            return call

        wrap = stream if handler.response_streaming else unary
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        return getattr(grpc, kind + "_rpc_method_handler")(
            wrap(getattr(handler, kind)),
            request_deserializer=reader(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _abort(self, method: str, error: Exception, context: grpc.ServicerContext) -> NoReturn:
        if type(error) is Exception and not error.args:
            raise error  # context.abort() ends a handler with a bare Exception
        if not isinstance(error, self._PLAIN):
            _logger.exception("%s failed", method)
        status = to_status(error)
        if status.retry_after_s is not None:
            wait_ms = max(1, round(status.retry_after_s * 1000))
            context.set_trailing_metadata(((RETRY_METADATA, str(wait_ms)),))
        context.abort(status.code, str(status))


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a request whose bytes are no message of its type."""

    reason: str


def reader(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """`deserialize`, but for giving what check_read() refuses where gRPC would say INTERNAL."""

    def read(data: bytes) -> Any:
        try:
            return data if deserialize is None else deserialize(data)
        except Exception as error:
            return _Unreadable(str(error))

    return read


def check_read(request: Any) -> None:
    """Raises InvalidArgumentError for a request that reader() could not read."""
    if isinstance(request, _Unreadable):
        raise InvalidArgumentError(f"the request cannot be read: {request.reason}")


def to_status(error: Exception) -> SaxError:
    """The one map from exceptions to status codes; see StatusInterceptor."""
    if isinstance(error, SaxError):
        return error
    if isinstance(error, grpc.RpcError):
        return from_rpc_error(error)
    if isinstance(error, ValueError):
        return InvalidArgumentError(str(error))
    return InternalError(f"{type(error).__name__}: {error}")
