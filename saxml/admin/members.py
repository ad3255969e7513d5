"""Who belongs to the cell: model servers that have joined, and whether they answer.

Life is told by GetStatus, not by Join: servers that join seldom are as good as others. A server
that does not answer is silent, at once if the line is broken, else after a second try; clients are
not sent to it. It is asked on, and is back with its first answer, until it is taken out.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable
from typing import Protocol

import grpc

from saxml.admin import validate
from saxml.admin.joined import JoinedServer, Merged
from saxml.admin.modelet import Modelet
from saxml.admin.periods import Periods
from saxml.common.clock import Clock
from saxml.common.errors import DeadlineExceededError, UnavailableError, from_code, from_rpc_error
from saxml.proto import admin_pb2, modelet_pb2

# Polls without an answer after which a server is silent.
_PATIENCE = 2

_logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Who acts on what is heard of servers."""

    def on_join(self, server: JoinedServer, report: modelet_pb2.GetStatusResponse) -> None:
        """A server was taken in, with this report; it is one of `servers` already."""

    def on_report(self, server: JoinedServer, merged: Merged) -> None:
        """A report has changed something."""

    def on_members_change(self, server: JoinedServer) -> None:
        """The server has gone silent, or speaks again, or drains."""


class Members:
    """The joined model servers of a cell, by address; use it in one event loop."""

    def __init__(
        self,
        clock: Clock,
        periods: Periods,
        connect: Callable[[str], Modelet],
        listener: Listener,
    ) -> None:
        self.servers: dict[str, JoinedServer] = {}
        self._clock = clock
        self._periods = periods
        self._connect = connect
        self._listener = listener
        self._open = True
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closing: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Takes in servers, again after close()."""
        self._open = True

    async def close(self) -> None:
        """Ends every line to a server; nothing is unloaded, and nobody is taken in any more."""
        self._open = False
        servers, self.servers = list(self.servers.values()), {}
        await asyncio.gather(*(s.close() for s in servers), *self._closing)

    async def join(self, request: admin_pb2.JoinRequest) -> None:
        """Takes in a model server, or hears from one that has joined already."""
        validate.check_join(request)
        lock = self._locks.setdefault(request.address, asyncio.Lock())
        async with lock:
            known = self.servers.get(request.address)
            if known is None or not known.is_same(request):
                await self._take_in(request)
                return
            known.note_join(request, self._clock)
            if known.is_silent or not known.modelet.is_connected():
                # It may be a new process without the models of the old one.
                await self.poll(known)

    async def poll(self, server: JoinedServer) -> None:
        """Asks a server how it is doing and draws the consequences."""
        version = server.version
        try:
            report = await server.modelet.get_status(self._periods.poll_timeout)
        except grpc.RpcError as error:
            self._note_silence(server, error)
            return
        if self.servers.get(server.address) is not server:
            return
        server.last_ping = self._clock.monotonic()
        server.failed_polls = 0
        was_draining = server.is_draining
        merged = server.merge(report, version)
        if server.is_silent or server.is_draining != was_draining:
            if server.is_silent:
                _logger.info("Model server %s answers again", server.address)
            server.is_silent = False
            self._listener.on_members_change(server)
        if merged.lost or merged.failed or merged.changed:
            self._listener.on_report(server, merged)

    def prune(self, now: float) -> None:
        """Takes out servers that have not answered for too long."""
        for server in list(self.servers.values()):
            quiet = now - server.last_ping
            if quiet >= self._periods.prune:
                _logger.warning(
                    "Model server %s has not answered for %.0f s and is taken out; it comes back "
                    "when it joins again",
                    server.address,
                    quiet,
                )
                del self.servers[server.address]
                self._close_later(server)

    def _note_silence(self, server: JoinedServer, error: grpc.RpcError) -> None:
        if self.servers.get(server.address) is not server:
            return
        status = from_rpc_error(error)
        if server.failed_polls == 0:
            _logger.warning("Failed to refresh model server (%s) state: %s", server.address, status)
        server.failed_polls += 1
        broken = status.code == grpc.StatusCode.UNAVAILABLE
        if not server.is_silent and (broken or server.failed_polls >= _PATIENCE):
            server.is_silent = True
            self._listener.on_members_change(server)

    async def _take_in(self, request: admin_pb2.JoinRequest) -> None:
        modelet = self._connect(request.address)
        try:
            report = await self._first_report(modelet)
            if not self._open:
                raise UnavailableError("this admin server stops, please retry")
        except BaseException:
            await modelet.close()
            raise
        old = self.servers.pop(request.address, None)
        if old is not None:
            self._close_later(old)
        _logger.info("Initializing state from model server %s", request.address)
        server = JoinedServer(request, modelet)
        server.note_join(request, self._clock)
        server.last_ping = self._clock.monotonic()
        self.servers[request.address] = server
        server.merge(report, server.version)
        server.rejections_before = server.rejections
        self._listener.on_join(server, report)
        _logger.info(
            "Refreshing model server %s state every %gs", request.address, self._periods.poll
        )
        server.tasks += [
            asyncio.create_task(self._poll_forever(server)),
            asyncio.create_task(self._watch_line(server)),
        ]

    async def _first_report(self, modelet: Modelet) -> modelet_pb2.GetStatusResponse:
        try:
            await modelet.dial(self._periods.dial)
        except DeadlineExceededError as error:
            raise DeadlineExceededError(
                f"failed to start a connection with {modelet.address}: {error}"
            ) from error
        try:
            return await modelet.get_status(self._periods.join_status)
        except grpc.RpcError as error:
            status = from_rpc_error(error)
            raise from_code(
                status.code, f"failed to get the status of model server {modelet.address}: {status}"
            ) from error

    async def _poll_forever(self, server: JoinedServer) -> None:
        while True:
            pause = self._periods.poll
            if server.failed_polls:
                # A server that hangs has had the time of one poll already.
                pause = min(pause, self._periods.poll_silent)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await server.poll_soon.wait()
            server.poll_soon.clear()
            await self.poll(server)

    async def _watch_line(self, server: JoinedServer) -> None:
        while True:
            await server.modelet.line_breaks()
            server.poll_soon.set()

    def _close_later(self, server: JoinedServer) -> None:
        task = asyncio.create_task(server.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
