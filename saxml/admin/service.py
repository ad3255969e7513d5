"""sax.Admin over gRPC: each method checks its request and asks the manager."""
# ruff: noqa: N802 (the methods are named as in the .proto)

from collections import Counter
from typing import Any

import grpc

from saxml.admin import validate, views
from saxml.admin.manager import Manager
from saxml.admin.published import Published
from saxml.common.errors import CancelledError, InvalidArgumentError, NotFoundError
from saxml.common.names import SERVERS_TRAILER, ModelId
from saxml.proto import admin_pb2, admin_pb2_grpc

_Context = Any  # grpc.aio.ServicerContext, which cannot be subscripted at run time


class AdminService(admin_pb2_grpc.AdminServicer):
    """The service; errors are given their status by AioStatusInterceptor."""

    def __init__(self, manager: Manager, server_id: str) -> None:
        """server_id tells clients apart which process they talk to: <ip:port>_<16 hex digits>."""
        self._manager = manager
        self._server_id = server_id

    async def Publish(
        self, request: admin_pb2.PublishRequest, context: _Context
    ) -> admin_pb2.PublishResponse:
        """Publishes a new model; it is durable when this returns."""
        await self._manager.registry.publish(request.model)
        return admin_pb2.PublishResponse()

    async def Update(
        self, request: admin_pb2.UpdateRequest, context: _Context
    ) -> admin_pb2.UpdateResponse:
        """Changes replicas, checkpoint, access lists or overrides of a model."""
        await self._manager.registry.update(request.model)
        return admin_pb2.UpdateResponse()

    async def Unpublish(
        self, request: admin_pb2.UnpublishRequest, context: _Context
    ) -> admin_pb2.UnpublishResponse:
        """Removes a model from the cell."""
        await self._manager.registry.unpublish(self._model_id(request.model_id))
        return admin_pb2.UnpublishResponse()

    async def List(
        self, request: admin_pb2.ListRequest, context: _Context
    ) -> admin_pb2.ListResponse:
        """One model, or all of them; see common/list_detail.py for how many replicas are ready."""
        return views.list_models(self._manager, self._optional_id(request.model_id))

    async def Stats(
        self, request: admin_pb2.StatsRequest, context: _Context
    ) -> admin_pb2.StatsResponse:
        """How many servers of which kind there are; of a cell also by state, in the trailer."""
        model_id = self._optional_id(request.model_id)
        if model_id is None:
            states = Counter(server.state for server in self._manager.servers.values())
            text = ",".join(f"{state}={count}" for state, count in sorted(states.items()))
            context.set_trailing_metadata(((SERVERS_TRAILER, text),))
        return views.stats(self._manager, model_id)

    async def WatchLoc(
        self, request: admin_pb2.WatchLocRequest, context: _Context
    ) -> admin_pb2.WatchLocResponse:
        """The changes of a model's addresses after `seqno`; waits for one if there is none yet."""
        if request.seqno < 0:
            raise InvalidArgumentError(f"WatchLoc seqno {request.seqno} should be non-negative")
        model_id = self._model_id(request.model_id)
        published = self._manager.registry.models.get(model_id.full)
        if published is None:
            raise NotFoundError(f"model {model_id.full} not found")
        known = request.admin_server_id == self._server_id
        return admin_pb2.WatchLocResponse(
            result=await _next_change(published, request.seqno if known else 0),
            admin_server_id=self._server_id,
        )

    async def WaitForReady(
        self, request: admin_pb2.WaitForReadyRequest, context: _Context
    ) -> admin_pb2.WaitForReadyResponse:
        """Returns when that many replicas are loaded."""
        published = self._manager.registry.get(self._model_id(request.model_id))
        if not await self._manager.wait_for_ready(published, request.num_replicas):
            raise CancelledError("Canceled")
        return admin_pb2.WaitForReadyResponse()

    async def Join(
        self, request: admin_pb2.JoinRequest, context: _Context
    ) -> admin_pb2.JoinResponse:
        """A model server joins, or says that it is still there."""
        await self._manager.join(request)
        return admin_pb2.JoinResponse()

    def _model_id(self, text: str) -> ModelId:
        return validate.model_of(self._manager.cell, text)

    def _optional_id(self, text: str) -> ModelId | None:
        return self._model_id(text) if text else None


async def _next_change(published: Published, seqno: int) -> admin_pb2.WatchResult:
    while not published.closed:
        result = published.watched.read(seqno)
        if result is not None:
            return result
        await published.bell.wait()
    # Unpublished: nothing is left, and the next watch starts over.
    return admin_pb2.WatchResult(has_fullset=True)


def add_to_server(service: AdminService, server: grpc.aio.Server) -> None:
    """Registers the service."""
    admin_pb2_grpc.add_AdminServicer_to_server(service, server)
