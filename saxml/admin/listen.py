"""The gRPC port of an admin server."""

import errno
import os
import socket

import grpc

from saxml.common.aio_errors import AioStatusInterceptor
from saxml.common.errors import FailedPreconditionError
from saxml.common.metrics import AioRpcInterceptor, RpcMetrics


def listen(port: int, rpcs: RpcMetrics) -> tuple[grpc.aio.Server, int]:
    """A server on `port` of every address, not started yet, and the port that it has.

    port: 0 takes a free one. rpcs: counts the calls. FailedPreconditionError if it is taken.
    """
    _check_port(port)
    server = grpc.aio.server(
        interceptors=[AioRpcInterceptor(rpcs), AioStatusInterceptor()],
        options=[
            # Without this a second admin server could take the same port unnoticed.
            ("grpc.so_reuseport", 0),
            # Clients may check long polls often.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            # All clients of a cell come back at once when an admin server is restarted.
            ("grpc.server.max_pending_requests", 100_000),
            ("grpc.server.max_pending_requests_hard_limit", 200_000),
        ],
    )
    try:
        bound = server.add_insecure_port(f"[::]:{port}" if socket.has_ipv6 else f"0.0.0.0:{port}")
    except RuntimeError as error:
        raise FailedPreconditionError(f"cannot listen on port {port}: {error}") from error
    return server, bound


def _check_port(port: int) -> None:
    """Says clearly what gRPC says in many words: that the port is taken or forbidden."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise FailedPreconditionError(
                f"net.Listen on port {port} error: listen tcp :{port}: bind: {reason}; "
                "pass another --port or end the program that has it"
            ) from error
