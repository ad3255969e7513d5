"""Waiting in an event loop: gRPC's own asyncio channels, no thread a call."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from saxml.client.bell import Bell
from saxml.client.driver import ChannelClosedError
from saxml.client.rpc import Procedure, channel_options
from saxml.common.errors import FailedPreconditionError, from_rpc_error

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_T = TypeVar("_T")


class AioDriver:
    """A Driver for the event loop in which it is first used."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def dial(self, address: str, timeout_s: float) -> grpc.aio.Channel:
        """See Driver."""
        self._check_loop()
        return grpc.aio.insecure_channel(address, options=channel_options(timeout_s))

    def close(self, channel: grpc.aio.Channel) -> None:
        """See Driver; done by the event loop, as soon as it comes to it."""
        if self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the channel with it
            if _running_loop() is self._loop:
                self._close(channel)
            else:
                self._loop.call_soon_threadsafe(self._close, channel)

    async def closed(self) -> None:
        """Waits until everything that close() was asked for is done."""
        while self._closing:
            await asyncio.wait([*self._closing])

    async def unary(
        self,
        channel: grpc.aio.Channel,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> tuple[_Response, dict[str, str | bytes]]:
        """See Driver."""
        self._check_loop()
        method: Any = channel.unary_unary(
            procedure.path,
            request_serializer=procedure.request.SerializeToString,
            response_deserializer=procedure.response.FromString,
        )
        with _told():
            call = method(request, timeout=timeout_s)
            response: _Response = await call
            trailers = await call.trailing_metadata()
        return response, dict(trailers or ())

    async def stream(
        self,
        channel: grpc.aio.Channel,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> AsyncGenerator[_Response, None]:
        """See Driver."""
        self._check_loop()
        method: Any = channel.unary_stream(
            procedure.path,
            request_serializer=procedure.request.SerializeToString,
            response_deserializer=procedure.response.FromString,
        )
        call = None
        try:
            with _told():
                call = method(request, timeout=timeout_s)
                responses = aiter(call)
            while True:
                try:
                    with _told():
                        response: _Response = await anext(responses)
                except StopAsyncIteration:
                    return
                yield response
        finally:
            if call is not None:
                call.cancel()

    async def sleep(self, seconds: float) -> None:
        """See Driver."""
        await asyncio.sleep(seconds)

    async def wait(self, bell: Bell, count: int, timeout_s: float) -> bool:
        """See Driver."""
        self._check_loop()
        loop, rang = asyncio.get_running_loop(), asyncio.Event()

        def ring() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
                loop.call_soon_threadsafe(rang.set)

        with bell.listening(ring):
            if bell.count != count:
                return True
            try:
                async with asyncio.timeout(timeout_s):
                    await rang.wait()
            except TimeoutError:
                return False
        return True

    async def blocking(self, call: Callable[[], _T]) -> _T:
        """See Driver; in a thread of the loop's executor."""
        self._check_loop()
        return await asyncio.to_thread(call)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise FailedPreconditionError(
                "this client is used in another event loop; make one in each loop"
            )

    def _close(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close(None))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _told:  # noqa: N801 (reads as a phrase)
    """Turns what gRPC raises into our errors."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.RpcError):
            raise from_rpc_error(error) from error
        if isinstance(error, grpc.aio.UsageError):
            raise ChannelClosedError("the connection was closed") from error
        if isinstance(error, asyncio.CancelledError):
            # A closed channel cancels its calls; so does whoever cancels the task that awaits.
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise ChannelClosedError("the connection was closed") from error
