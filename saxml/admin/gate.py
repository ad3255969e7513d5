"""The door of sax.Admin: open while this admin server leads, and an answer for all others."""
# ruff: noqa: N802 (the methods are named as in the .proto)

import asyncio
from collections.abc import Callable
from typing import Any

from saxml.common.errors import FailedPreconditionError, UnavailableError
from saxml.common.names import CellId
from saxml.proto import admin_pb2, admin_pb2_grpc

_Context = Any  # grpc.aio.ServicerContext, which cannot be subscripted at run time


class Gate(admin_pb2_grpc.AdminServicer):
    """Passes calls on to the service of the present term; calls under way end with it."""

    def __init__(self, cell: CellId, leader: Callable[[], str], address: str) -> None:
        """leader: gives where the leader is, or "" if that is not known. address: our own."""
        self._cell = cell
        self._leader = leader
        self._address = address
        self._service: admin_pb2_grpc.AdminServicer | None = None
        self._check: Callable[[], None] = lambda: None
        self._calls: set[asyncio.Task[Any]] = set()

    def open(self, service: admin_pb2_grpc.AdminServicer, check: Callable[[], None]) -> None:
        """Calls are answered by `service` from now on, as long as check() does not raise."""
        self._service, self._check = service, check

    def close(self) -> None:
        """Calls are turned away from now on, those under way with UNAVAILABLE."""
        self._service = None
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()

    async def _pass(self, method: str, request: Any, context: _Context) -> Any:
        service = self._service
        if service is None:
            raise self._refusal()
        # After a long sleep a call may come in before anybody notices that the term is over.
        self._check()
        call = asyncio.ensure_future(getattr(service, method)(request, context))
        self._calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            if self._service is service:
                raise  # by the caller
            raise UnavailableError(
                f"this admin server does not lead {self._cell.full} any more, please retry"
            ) from None
        finally:
            self._calls.discard(call)

    def _refusal(self) -> FailedPreconditionError | UnavailableError:
        leader = self._leader()
        if leader == self._address:
            return UnavailableError(
                f"this admin server is about to lead {self._cell.full}, please retry"
            )
        if not leader:
            return UnavailableError(
                f"this admin server stands by; nobody leads {self._cell.full} yet, please retry"
            )
        return FailedPreconditionError(
            f"this admin server stands by; the leader of {self._cell.full} is {leader}"
        )

    async def Publish(self, request: admin_pb2.PublishRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("Publish", request, context)

    async def Update(self, request: admin_pb2.UpdateRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("Update", request, context)

    async def Unpublish(self, request: admin_pb2.UnpublishRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("Unpublish", request, context)

    async def List(self, request: admin_pb2.ListRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("List", request, context)

    async def Stats(self, request: admin_pb2.StatsRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("Stats", request, context)

    async def WatchLoc(self, request: admin_pb2.WatchLocRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("WatchLoc", request, context)

    async def WaitForReady(self, request: admin_pb2.WaitForReadyRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("WaitForReady", request, context)

    async def Join(self, request: admin_pb2.JoinRequest, context: _Context) -> Any:
        """See AdminService."""
        return await self._pass("Join", request, context)
