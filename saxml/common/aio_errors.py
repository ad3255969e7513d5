"""StatusInterceptor for servers of grpc.aio."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from saxml.common import errors

_logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor


class AioStatusInterceptor(_Interceptor):
    """Gives each exception of a coroutine handler its status; the map is StatusInterceptor's."""

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Any]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call; streams from clients are passed on as they are."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method = handler_call_details.method

        async def unary(request: Any, context: Any) -> Any:
            try:
                errors.check_read(request)
                return await handler.unary_unary(request, context)
            except Exception as error:
                await _abort(method, error, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                errors.check_read(request)
                async for response in handler.unary_stream(request, context):
                    yield response
            except Exception as error:
                await _abort(method, error, context)

        async def writing(request: Any, context: Any) -> None:
            try:
                errors.check_read(request)
                await handler.unary_stream(request, context)
            except Exception as error:
                await _abort(method, error, context)

        codecs = {
            "request_deserializer": errors.reader(handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            # A handler may also be a coroutine that writes its answers to the context.
            yields = inspect.isasyncgenfunction(handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(stream if yields else writing, **codecs)
        return grpc.unary_unary_rpc_method_handler(unary, **codecs)


async def _abort(method: str, error: Exception, context: Any) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    status = errors.to_status(error)
    if isinstance(status, errors.InternalError) and status is not error:
        _logger.exception("%s failed", method)
    await context.abort(status.code, str(status))
    raise AssertionError("abort() raises")
