"""A model server: its gRPC services, its place in the cell, and how it ends.

server = ModelServer(models, port=10001, cell=cell, description=description, clock=SystemClock())
server.start()
...
server.drain(timeout_s=30)
server.stop()
"""

import errno
import logging
import socket
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from saxml.common import errors, net
from saxml.common.clock import Clock
from saxml.common.metrics import RpcInterceptor, RpcMetrics
from saxml.proto import (
    admin_pb2,
    lm_pb2,
    lm_pb2_grpc,
    modelet_pb2,
    modelet_pb2_grpc,
)
from saxml.server.http_status import HttpStatus
from saxml.server.join import Joiner
from saxml.server.lifecycle import ModelTable
from saxml.server.lm_service import LmService
from saxml.server.metrics import model_registry
from saxml.server.modelet_service import ModeletService
from saxml.server.term import TermFence
from saxml.server.watchdog import Watchdog
from saxml.storage.cell import CellStore

# Handlers block while the engine decodes: so many calls of models at once, and threads for all
# else.
_MAX_CALLS = 1024
_OTHER_THREADS = 64
_STOP_GRACE_S = 2.0
_LEAVE_TIMEOUT_S = 5.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_logger = logging.getLogger(__name__)


class ModelServer:
    """Serves what `models` holds. Without a cell nothing is joined and only static models run."""

    def __init__(
        self,
        models: ModelTable,
        *,
        port: int,
        cell: CellStore | None,
        description: admin_pb2.ModelServer,
        clock: Clock,
        http_host: str = "localhost",
        http_port: int = 0,
        max_calls: int = _MAX_CALLS,
        on_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Binds `port` (0: a free one). Raises FailedPreconditionError when it is in use.

        /healthz, /readyz and /metrics are on http_port of http_host; 0 for none. max_calls: of all
        models together, served at once. on_failure: told
        once, from another thread, why a model that was loaded cannot go on; only another process
        can.
        """
        self._models = models
        metrics = model_registry(models)
        self.http_host, self.http_port = http_host, http_port
        self._watchdog = Watchdog(models, say=self._say_ready, on_failure=on_failure)
        self._http = HttpStatus(self._watchdog.ready, metrics, alive=self._watchdog.alive)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_calls + _OTHER_THREADS, thread_name_prefix="rpc"),
            interceptors=[RpcInterceptor(RpcMetrics(metrics)), errors.StatusInterceptor()],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)],
        )
        modelet_pb2_grpc.add_ModeletServicer_to_server(
            ModeletService(models, TermFence()), self._server
        )
        lm_pb2_grpc.add_LMServiceServicer_to_server(LmService(models, max_calls), self._server)
        self._health: Any = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [
            modelet_pb2.DESCRIPTOR.services_by_name["Modelet"].full_name,
            lm_pb2.DESCRIPTOR.services_by_name["LMService"].full_name,
        ]
        reflection.enable_server_reflection(
            [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        self._say(_NOT_SERVING)
        self.port = _bind(self._server, port)
        self._cell, self._description, self._clock = cell, description, clock
        self._joiner: Joiner | None = None
        self.address = ""

    def start(self) -> None:
        """Serves, and joins the cell in the background.

        Raises FailedPreconditionError when the HTTP port cannot be bound.
        """
        if self.http_port:
            try:
                self._http.start(self.http_host, self.http_port)
            except OSError as e:
                raise errors.FailedPreconditionError(
                    f"HTTP port {self.http_port} of {self.http_host or 'all'} cannot be used"
                    f" ({e.strerror}); choose another --http_port, or 0 for none"
                ) from None
        self._server.start()
        self._watchdog.start()
        self.address = net.join_host_port(net.local_address(), self.port)
        if self._cell is not None:
            request = admin_pb2.JoinRequest(address=self.address, model_server=self._description)
            self._joiner = Joiner(self._cell, request, self._clock)
            self._joiner.start()

    def drain(self, timeout_s: float) -> bool:
        """Takes no new requests, leaves the cell, and waits for the requests in flight.

        True when all of them have ended in time.
        """
        self._models.start_draining()
        self._say(_NOT_SERVING)
        if self._joiner is not None:
            self._joiner.leave(_LEAVE_TIMEOUT_S)
        return self._models.wait_until_idle(timeout_s)

    def stop(self) -> None:
        """Ends everything; requests still in flight fail with UNAVAILABLE."""
        self._watchdog.stop()
        if self._joiner is not None:
            self._joiner.stop()
        stopped = self._server.stop(_STOP_GRACE_S)
        self._models.close()
        stopped.wait()
        self._http.stop()

    def _say_ready(self, ready: bool) -> None:
        self._say(_SERVING if ready else _NOT_SERVING)

    def _say(self, status: int) -> None:
        for name in ("", *self._names):
            self._health.set(name, status)


def _bind(server: grpc.Server, port: int) -> int:
    """Binds all interfaces; looks first, because gRPC writes its own lines about a port in use."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as e:
            problem = "is in use" if e.errno == errno.EADDRINUSE else f"is refused ({e.strerror})"
            raise errors.FailedPreconditionError(
                f"port {port} {problem}; stop what listens there or choose another --port"
            ) from None
    return server.add_insecure_port(f"[::]:{port}")
