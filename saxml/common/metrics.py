"""RPCs in Prometheus: counted by method and code, timed by method.

registry = CollectorRegistry()
server = grpc.aio.server(interceptors=[AioRpcInterceptor(RpcMetrics(registry)), ...])

The interceptor comes first, so that it sees the status that the others give. Only methods that the
server offers get a label: callers cannot make up new ones.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

# From a look-up in memory to a model that takes minutes to load.
_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
    _AioInterceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.ServerInterceptor
    _AioInterceptor = grpc.aio.ServerInterceptor


class RpcMetrics:
    """sax_rpcs_total{method,code} and sax_rpc_seconds{method}."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(
            "sax_rpcs", "RPCs answered, by method and code.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "sax_rpc_seconds",
            "Seconds that RPCs took; WatchLoc and WaitForReady wait by design.",
            ["method"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def note(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Counts one RPC that has ended."""
        name = method.removeprefix("/")
        self._count.labels(name, code.name).inc()
        self._seconds.labels(name).observe(seconds)

    @contextlib.contextmanager
    def noting(self, method: str, context: Any) -> Iterator[None]:
        """Wraps the handling of one RPC, whatever becomes of it."""
        start = time.monotonic()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.note(method, _code(context, error), time.monotonic() - start)


class AioRpcInterceptor(_AioInterceptor):
    """Notes every unary request of a grpc.aio server."""

    def __init__(self, metrics: RpcMetrics) -> None:
        self._metrics = metrics

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
            with self._metrics.noting(method, context):
                return await handler.unary_unary(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._metrics.noting(method, context):
                async for response in handler.unary_stream(request, context):
                    yield response

        async def writing(request: Any, context: Any) -> None:
            with self._metrics.noting(method, context):
                await handler.unary_stream(request, context)

        # A handler may also be a coroutine that writes its answers to the context.
        if handler.response_streaming and not inspect.isasyncgenfunction(handler.unary_stream):
            return _rewrapped(handler, unary, writing)
        return _rewrapped(handler, unary, stream)


class RpcInterceptor(_Interceptor):
    """Notes every unary request of a threaded grpc server."""

    def __init__(self, metrics: RpcMetrics) -> None:
        self._metrics = metrics

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call; streams from clients are passed on as they are."""
        handler: Any = continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method = handler_call_details.method

        def unary(request: Any, context: Any) -> Any:
            with self._metrics.noting(method, context):
                return handler.unary_unary(request, context)

        def stream(request: Any, context: Any) -> Iterator[Any]:
            with self._metrics.noting(method, context):
                yield from handler.unary_stream(request, context)

        return _rewrapped(handler, unary, stream)


def _rewrapped(handler: Any, unary: Any, stream: Any) -> Any:
    codecs = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(stream, **codecs)
    return grpc.unary_unary_rpc_method_handler(unary, **codecs)


def _code(context: Any, error: BaseException | None) -> grpc.StatusCode:
    """What the caller is told."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return grpc.StatusCode.CANCELLED
    code = context.code()
    if isinstance(code, int):  # grpc.aio keeps numbers, 0 until one is set
        code = next((c for c in grpc.StatusCode if c.value[0] == code), grpc.StatusCode.UNKNOWN)
    if error is not None and code in (None, grpc.StatusCode.OK):
        return grpc.StatusCode.UNKNOWN
    return code or grpc.StatusCode.OK
