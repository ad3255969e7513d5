"""What waiting means: in a thread here, in an event loop in aio_driver.py.

The client is written once, as coroutines over a Driver. A ThreadDriver blocks inside its methods,
so coroutines over it never suspend, and `run` finishes them on the spot:

    core = ModelCore(model_id, root, ThreadDriver(SystemClock()))
    response = run(core.call(GENERATE, request, 10))
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from saxml.client.bell import Bell
from saxml.client.rpc import Procedure, dial
from saxml.common.clock import Clock
from saxml.common.errors import CancelledError, from_rpc_error

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_T = TypeVar("_T")

# grpc.Channel or grpc.aio.Channel, whatever the driver dials.
Channel = Any


class ChannelClosedError(CancelledError):
    """The channel was closed under a call by this process."""


class Driver(Protocol):
    """Calls, pauses and waits. Calls raise SaxError."""

    def dial(self, address: str, timeout_s: float) -> Channel:
        """A channel; calls fail with UNAVAILABLE if connecting takes longer."""

    def close(self, channel: Channel) -> None:
        """Closes a channel; calls under way end. May be called from any thread."""

    async def unary(
        self,
        channel: Channel,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> tuple[_Response, dict[str, str | bytes]]:
        """The answer and its trailers. Cancelling the task that awaits cancels the call."""

    def stream(
        self,
        channel: Channel,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> AsyncGenerator[_Response, None]:
        """The answers as they come; closing the generator cancels the call."""

    async def sleep(self, seconds: float) -> None:
        """A pause."""

    async def wait(self, bell: Bell, count: int, timeout_s: float) -> bool:
        """See Bell.wait."""

    async def blocking(self, call: Callable[[], _T]) -> _T:
        """The outcome of something that reads files, or waits for another thread."""


class ThreadDriver:
    """A Driver that blocks the thread that calls."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def dial(self, address: str, timeout_s: float) -> grpc.Channel:
        """See Driver."""
        return dial(address, timeout_s)

    def close(self, channel: grpc.Channel) -> None:
        """See Driver."""
        channel.close()

    async def unary(
        self,
        channel: grpc.Channel,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> tuple[_Response, dict[str, str | bytes]]:
        """See Driver."""
        try:
            return procedure.call(channel, request, timeout_s)
        except (grpc.RpcError, ValueError) as error:
            raise _ours(error) from error

    async def stream(
        self,
        channel: grpc.Channel,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> AsyncGenerator[_Response, None]:
        """See Driver."""
        responses = None
        try:
            responses = procedure.stream(channel, request, timeout_s)
            for response in responses:
                yield response
        except (grpc.RpcError, ValueError) as error:
            raise _ours(error) from error
        finally:
            if responses is not None:
                responses.cancel()

    async def sleep(self, seconds: float) -> None:
        """See Driver."""
        self._clock.sleep(seconds)

    async def wait(self, bell: Bell, count: int, timeout_s: float) -> bool:
        """See Driver."""
        return bell.wait(count, timeout_s)

    async def blocking(self, call: Callable[[], _T]) -> _T:
        """See Driver."""
        return call()


def _ours(error: grpc.RpcError | ValueError) -> Exception:
    if isinstance(error, grpc.RpcError):
        return from_rpc_error(error)
    # "Cannot invoke RPC on closed channel!"
    if "closed" in str(error):
        return ChannelClosedError("the connection was closed")
    return error


def run(coroutine: Awaitable[_T]) -> _T:
    """The outcome of a coroutine over a ThreadDriver."""
    steps = coroutine.__await__()
    try:
        next(steps)
    except StopIteration as done:
        outcome: _T = done.value
        return outcome
    raise RuntimeError("a coroutine over a ThreadDriver has suspended")


def iterate(items: AsyncGenerator[_T, None]) -> Generator[_T, None, None]:
    """The items of an asynchronous generator over a ThreadDriver."""
    try:
        while True:
            try:
                item = run(anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())
