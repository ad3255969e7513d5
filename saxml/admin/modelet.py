"""The admin server's line to one model server.

What changes the server carries the term of this admin server, by which it refuses orders of one
that was deposed. An admin server that knows that its term is over sends none.
"""

import asyncio
from typing import Any, Protocol

import grpc

from saxml.common.errors import DeadlineExceededError, SaxError
from saxml.common.names import TERM_METADATA
from saxml.proto import admin_pb2, modelet_pb2, modelet_pb2_grpc

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    # A server that comes back is reached by a connection of its own, not by one in back-off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3000),
)


class Term(Protocol):
    """For whom orders are given."""

    term: int

    def check(self) -> None:
        """Raises SaxError if the term is over."""


class Modelet:
    """Calls of sax.Modelet; they raise grpc.RpcError. Use it in one event loop.

    load(), update() and unload() wait for ever when the term is over: then nothing can be said
    about the model, and whoever waits is about to be cancelled.
    """

    def __init__(self, address: str, term: Term | None = None) -> None:
        """term: None sends orders that every server accepts."""
        self.address = address
        self._term = term
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub: Any = modelet_pb2_grpc.ModeletStub(self._channel)

    async def dial(self, timeout_s: float) -> None:
        """Waits until the server is reached; DeadlineExceededError if it is not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._channel.channel_ready()
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"Start failed to create a client for model server {self.address}: "
                "context deadline exceeded"
            ) from error

    def is_connected(self) -> bool:
        """Whether the connection stands; it breaks when the server's process ends."""
        return self._channel.get_state() == grpc.ChannelConnectivity.READY

    async def get_status(self, timeout_s: float) -> modelet_pb2.GetStatusResponse:
        """What the server has loaded and how it is doing."""
        request = modelet_pb2.GetStatusRequest(
            include_failure_reasons=True, include_method_stats=True
        )
        response: modelet_pb2.GetStatusResponse = await self._stub.GetStatus(
            request, timeout=timeout_s
        )
        return response

    async def load(self, model: admin_pb2.Model) -> None:
        """Returns when the model is loaded, however long that takes."""
        request = modelet_pb2.LoadRequest(
            model_key=model.model_id,
            model_path=model.model_path,
            checkpoint_path=model.checkpoint_path,
            overrides=model.overrides,
        )
        request.acls.CopyFrom(model.acls)
        await self._stub.Load(request, metadata=await self._signed())

    async def update(self, model: admin_pb2.Model, *, with_checkpoint: bool) -> None:
        """Hands on changed access lists, and a changed checkpoint, which is then loaded."""
        request = modelet_pb2.UpdateLoadedRequest(model_key=model.model_id)
        request.acls.CopyFrom(model.acls)
        if with_checkpoint:
            request.checkpoint_path = model.checkpoint_path
        await self._stub.UpdateLoaded(request, metadata=await self._signed())

    async def unload(self, model_key: str) -> None:
        """Returns when the model is gone."""
        request = modelet_pb2.UnloadRequest(model_key=model_key)
        await self._stub.Unload(request, metadata=await self._signed())

    async def wake_up(self, timeout_s: float) -> None:
        """Makes a dormant server serve again."""
        await self._stub.WakeUp(modelet_pb2.WakeUpRequest(), timeout=timeout_s)

    async def line_breaks(self) -> None:
        """Returns when the connection breaks, as it does when the server's process ends."""
        state = self._channel.get_state()
        while state != grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state()
        await self._channel.wait_for_state_change(state)

    async def close(self) -> None:
        """Ends the connection and every call on it."""
        await self._channel.close(None)

    async def _signed(self) -> tuple[tuple[str, str], ...]:
        if self._term is None:
            return ()
        try:
            self._term.check()
        except SaxError:
            await asyncio.Event().wait()
        return ((TERM_METADATA, str(self._term.term)),)
