"""grpc.health.v1 of an admin server: serving while it leads, not serving while it stands by."""

from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from saxml.proto import admin_pb2

SERVICE_NAMES = (admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name, health.SERVICE_NAME)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class AdminHealth:
    """Answers Check and Watch for the server as a whole ("") and for sax.Admin."""

    def __init__(self, server: grpc.aio.Server) -> None:
        """Adds the service to `server`, which has not been started; say() must follow."""
        self._servicer: Any = cast(Any, health).aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def say(self, *, leading: bool) -> None:
        """Tells everybody who watches; call it when this process begins or ceases to lead."""
        for name in ("", SERVICE_NAMES[0]):
            await self._servicer.set(name, _SERVING if leading else _NOT_SERVING)
