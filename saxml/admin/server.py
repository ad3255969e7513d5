"""An admin server from start to stop, in the order that its log lines tell."""

import asyncio
import errno
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from google.protobuf import text_format
from grpc_reflection.v1alpha import reflection

from saxml.admin.health import SERVICE_NAMES, AdminHealth
from saxml.admin.http_server import HttpServer
from saxml.admin.manager import Manager, Periods
from saxml.admin.metrics import AdminMetrics
from saxml.admin.service import AdminService, add_to_server
from saxml.admin.standing import Standing
from saxml.admin.state import StateFile
from saxml.admin.status_page import StatusPages
from saxml.common import net
from saxml.common.aio_errors import AioStatusInterceptor
from saxml.common.errors import FailedPreconditionError, SaxError, UnavailableError
from saxml.common.metrics import AioRpcInterceptor
from saxml.common.names import CellId
from saxml.proto import admin_pb2
from saxml.storage.cell import CellStore

CONFIG_PERIOD_S = 5.0
STORE_RETRY_S = 5.0
# A standby whose sight of the lease is older counts as cut off.
FRESH_S = 15.0

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class AdminServer:
    """Serves one cell: `await start()`, then `await serve()` until it is cancelled or stop()ped."""

    def __init__(
        self,
        root: str,
        cell: CellId,
        port: int,
        *,
        http_port: int = 0,
        http_host: str = "localhost",
        periods: Periods | None = None,
    ) -> None:
        """port: 0 takes a free one. http_port, bound on http_host: 0 serves no status page."""
        self._files = CellStore(root, cell)
        self._cell = cell
        self._http_port, self._http_host = http_port, http_host
        self._periods = periods or Periods()
        self._http: HttpServer | None = None
        self._server: grpc.aio.Server | None = None
        self._manager: Manager | None = None
        self._address = ""
        self.metrics = AdminMetrics(self.standing, lambda: self._manager)
        self.port = port

    async def start(self) -> None:
        """Takes the port, the configuration and the state, then serves.

        Waits for a store that is not available; SaxError for what a person must set right.
        """
        host = net.local_address()
        server = self._listen()
        address = self._address = net.join_host_port(host, self.port)
        config = await _patiently(
            "read the configuration", lambda: asyncio.to_thread(self._load_config)
        )
        _logger.info("Loaded config: %s", _text(config))
        if config.admin_acl:
            _logger.warning(
                "Ignoring ACL: %s (access lists of cells are not checked)", config.admin_acl
            )
        manager = Manager(
            self._cell,
            StateFile(config.fs_root, self._cell),
            periods=self._periods,
            on_reconciled=self.metrics.reconciled,
        )
        await _patiently("read the state", manager.restore)
        await _patiently(
            "write the location", lambda: asyncio.to_thread(self._files.write_location, address)
        )
        _logger.info('SetAddr %s "%s"', self._files.location_path, address)
        _logger.info("Updated config: %s", _text(config))
        _logger.info("Loaded manager state")
        _logger.info("Refreshing manager state every %gs", self._periods.refresh)
        self._manager = manager
        self._config = config
        add_to_server(AdminService(manager, f"{address}_{secrets.token_hex(8)}"), server)
        health = AdminHealth(server)
        reflection.enable_server_reflection((*SERVICE_NAMES, reflection.SERVICE_NAME), server)
        _logger.info("Starting the server on port %d", self.port)
        await server.start()
        self._server = server
        await health.say(leading=True)
        await self._start_http()

    async def serve(self) -> None:
        """Manages the cell until cancelled."""
        assert self._manager is not None, "start() first"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._manager.run())
            tasks.create_task(self._watch_config())

    async def stop(self) -> None:
        """Ends every call and frees the ports; nothing is unloaded or unpublished."""
        if self._http is not None:
            await self._http.stop()
        if self._server is not None:
            await self._server.stop(None)
        if self._manager is not None:
            await self._manager.close()

    @property
    def http_port(self) -> int:
        """Where the status page is; 0: nowhere."""
        return self._http.port if self._http is not None else 0

    def standing(self) -> Standing:
        """What this server is to its cell now."""
        return Standing(
            is_leader=self._manager is not None, leader_address=self._address, view_age_s=0.0
        )

    def _listen(self) -> grpc.aio.Server:
        _check_port(self.port)
        server = grpc.aio.server(
            interceptors=[AioRpcInterceptor(self.metrics.rpcs), AioStatusInterceptor()],
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
            self.port = server.add_insecure_port(
                f"[::]:{self.port}" if socket.has_ipv6 else f"0.0.0.0:{self.port}"
            )
        except RuntimeError as error:
            raise FailedPreconditionError(f"cannot listen on port {self.port}: {error}") from error
        return server

    def _load_config(self) -> admin_pb2.Config:
        try:
            self._files.check_exists()
            config = self._files.read_config()
        except FailedPreconditionError as error:
            raise FailedPreconditionError(f"config.Load error: {error}") from error
        if config is None or not config.fs_root:
            raise FailedPreconditionError(
                f"config.Load error: {self._files.path}/config.proto is missing or names no "
                "fs_root; write it with admin_config"
            )
        return config

    async def _watch_config(self) -> None:
        while True:
            await asyncio.sleep(CONFIG_PERIOD_S)
            try:
                config = await asyncio.to_thread(self._files.read_config)
            except SaxError as error:
                _logger.warning("Cannot read the configuration: %s", error)
                continue
            if config is None or config == self._config:
                continue
            _logger.info("Updated config: %s", _text(config))
            if config.fs_root != self._config.fs_root:
                _logger.warning("The new fs_root is used after a restart of this admin server")
            self._config = config

    async def _start_http(self) -> None:
        if not self._http_port:
            return
        pages = StatusPages(self._cell, self._address, self.standing, lambda: self._manager)
        http = HttpServer(pages, self.metrics, self.standing, fresh_s=FRESH_S)
        try:
            await http.start(self._http_host, self._http_port)
        except OSError as error:
            _logger.warning(
                "No status page on port %d: %s; pass another --http_port",
                self._http_port,
                os.strerror(error.errno) if error.errno else error,
            )
            return
        self._http = http
        _logger.info("Starting the HTTP server on port %d", http.port)


async def _patiently(what: str, call: Callable[[], Awaitable[_T]]) -> _T:
    """The outcome of `call`, which is made again for as long as the store is not available."""
    while True:
        try:
            return await call()
        except UnavailableError as error:
            _logger.warning("Waiting to %s: %s; trying again in %g s", what, error, STORE_RETRY_S)
            await asyncio.sleep(STORE_RETRY_S)


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


def _text(config: admin_pb2.Config) -> str:
    return text_format.MessageToString(config).rstrip("\n")
