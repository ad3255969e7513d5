"""sax.Modelet: what the admin server asks of this server."""

import grpc

from saxml.common import errors
from saxml.proto import modelet_pb2, modelet_pb2_grpc
from saxml.server.lifecycle import ModelTable
from saxml.server.term import TermFence


class ModeletService(modelet_pb2_grpc.ModeletServicer):
    """Errors are raised as SaxError; the server's interceptor gives them their status."""

    def __init__(self, models: ModelTable, fence: TermFence) -> None:
        self._models = models
        self._fence = fence

    def Load(  # noqa: N802
        self, request: modelet_pb2.LoadRequest, context: grpc.ServicerContext
    ) -> modelet_pb2.LoadResponse:
        """Answers when the model serves, or with why it does not."""
        self._fence.check(context.invocation_metadata())
        self._models.load(
            request.model_key,
            request.model_path,
            request.checkpoint_path,
            request.overrides,
            request.acls.items,
        )
        return modelet_pb2.LoadResponse()

    def UpdateLoaded(  # noqa: N802
        self, request: modelet_pb2.UpdateLoadedRequest, context: grpc.ServicerContext
    ) -> modelet_pb2.UpdateLoadedResponse:
        """New ACLs, and a new checkpoint if it is another one."""
        self._fence.check(context.invocation_metadata())
        self._models.update(request.model_key, request.checkpoint_path, request.acls.items)
        return modelet_pb2.UpdateLoadedResponse()

    def Unload(  # noqa: N802
        self, request: modelet_pb2.UnloadRequest, context: grpc.ServicerContext
    ) -> modelet_pb2.UnloadResponse:
        """Answers when its requests in flight have ended and the model is gone."""
        self._fence.check(context.invocation_metadata())
        self._models.unload(request.model_key)
        return modelet_pb2.UnloadResponse()

    def GetStatus(  # noqa: N802
        self, request: modelet_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> modelet_pb2.GetStatusResponse:
        """Status of each model, with reasons and rates if asked."""
        status = modelet_pb2.GetStatusResponse.ServerStatus
        server_status = status(state=status.ACTIVE, stats=status.Stats())
        if self._models.draining:
            server_status.explanation = "draining"
        return modelet_pb2.GetStatusResponse(
            models=self._models.status(
                failure_reasons=request.include_failure_reasons,
                method_stats=request.include_method_stats,
            ),
            server_status=server_status,
        )

    def WakeUp(  # noqa: N802
        self, request: modelet_pb2.WakeUpRequest, context: grpc.ServicerContext
    ) -> modelet_pb2.WakeUpResponse:
        """This server never sleeps, so it is awake."""
        return modelet_pb2.WakeUpResponse()

    def Save(  # noqa: N802
        self, request: modelet_pb2.SaveRequest, context: grpc.ServicerContext
    ) -> modelet_pb2.SaveResponse:
        """Not offered."""
        raise errors.UnimplementedError("Save: this server does not write checkpoints")

    def Export(  # noqa: N802
        self, request: modelet_pb2.ExportRequest, context: grpc.ServicerContext
    ) -> modelet_pb2.ExportResponse:
        """Not offered."""
        raise errors.UnimplementedError("Export: this server does not write SavedModels")
