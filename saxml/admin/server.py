"""An admin server from start to stop: it stands by, leads, and stands by again.

Taking over is: lease, location.proto, state.proto read and written, then answers. All of it is
done anew for each term, with a fresh manager. The log tells it in that order.
"""

import asyncio
import functools
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from google.protobuf import text_format
from grpc_reflection.v1alpha import reflection

from saxml.admin.election import Election, Tenure, TermOverError, lease_clock
from saxml.admin.following import follow
from saxml.admin.gate import Gate
from saxml.admin.health import SERVICE_NAMES, AdminHealth
from saxml.admin.http_server import HttpServer
from saxml.admin.lease import DEFAULT_TTL_S, Lease
from saxml.admin.listen import listen
from saxml.admin.manager import Manager, Periods
from saxml.admin.metrics import AdminMetrics
from saxml.admin.modelet import Modelet
from saxml.admin.service import AdminService
from saxml.admin.standing import Standing
from saxml.admin.state import StateFile
from saxml.admin.status_page import StatusPages
from saxml.common import net
from saxml.common.errors import FailedPreconditionError, SaxError, UnavailableError
from saxml.common.names import CellId
from saxml.proto import admin_pb2, admin_pb2_grpc
from saxml.storage.base import ConflictError, open_store
from saxml.storage.cell import CellStore

# How often configuration and location are looked at where nobody has written them.
LOOK_S = 5.0
STORE_RETRY_S = 2.0
# A standby whose sight of the lease is older than so many times to live counts as cut off.
FRESH = 1.5
# How long an admin server that cannot lead leaves that to others before it tries again.
ABSTAIN_S = 10.0
RESIGN_TIMEOUT_S = 3.0

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
        lease_ttl_s: float = DEFAULT_TTL_S,
    ) -> None:
        """port: 0 takes a free one. http_port, bound on http_host: 0 serves no status page.

        lease_ttl_s: how long after the last sign of life of the leader another admin server takes
        over.
        """
        self._root = root
        self._files = CellStore(root, cell)
        self._cell = cell
        self._http_port, self._http_host = http_port, http_host
        self._periods = periods or Periods()
        self._lease_ttl_s = lease_ttl_s
        self._http: HttpServer | None = None
        self._server: grpc.aio.Server | None = None
        self._election: Election | None = None
        self._running: asyncio.Task[None] | None = None
        self._manager: Manager | None = None
        self._tenure: Tenure | None = None
        self._config = admin_pb2.Config()
        self.metrics = AdminMetrics(self.standing, lambda: self._manager)
        self.port = port
        self.address = ""

    @property
    def manager(self) -> Manager | None:
        """What decides while this process leads; None while it stands by."""
        return self._manager

    @property
    def is_leader(self) -> bool:
        """Whether this process leads the cell."""
        return self._election is not None and self._election.tenure is not None

    @property
    def term(self) -> int:
        """The term that is known: the own one, or that of the leader; 0: none yet."""
        return self._election.lease.floor if self._election is not None else 0

    @property
    def leader_address(self) -> str:
        """Where the cell's leader is, as far as this process knows, or ""."""
        return self._election.leader_address if self._election is not None else ""

    @property
    def http_port(self) -> int:
        """Where the status page is; 0: nowhere."""
        return self._http.port if self._http is not None else 0

    def standing(self) -> Standing:
        """What this process is to its cell, for the pages and the metrics."""
        if self._election is None:
            return Standing()
        lease = self._election.lease
        return Standing(
            is_leader=self.is_leader,
            term=lease.floor,
            leader_address=self.leader_address,
            renewals=lease.renewals,
            failed_renewals=lease.failed_renewals,
            view_age_s=lease_clock() - lease.seen_at,
            waiting_for=self._election.waiting_for,
            stuck=self._election.stuck,
        )

    async def start(self) -> None:
        """Takes the port and the configuration, then leads, or stands by, and serves.

        Waits for a store that is not available; SaxError for what a person must set right.
        """
        host = net.local_address()
        server, self.port = listen(self.port, self.metrics.rpcs)
        self.address = net.join_host_port(host, self.port)
        self._gate = Gate(self._cell, lambda: self.leader_address, self.address)
        self._config = await _patiently(
            "read the configuration", lambda: asyncio.to_thread(self._load_config)
        )
        _logger.info("Loaded config: %s", _text(self._config))
        if self._config.admin_acl:
            _logger.warning(
                "Ignoring ACL: %s (access lists of cells are not checked)", self._config.admin_acl
            )
        self._health = AdminHealth(server)
        await self._health.say(leading=False)
        await self._stand_for_election()
        admin_pb2_grpc.add_AdminServicer_to_server(self._gate, server)
        reflection.enable_server_reflection((*SERVICE_NAMES, reflection.SERVICE_NAME), server)
        _logger.info("Starting the server on port %d", self.port)
        await server.start()
        self._server = server
        await self._start_http()

    async def serve(self) -> None:
        """Stands by or manages the cell until cancelled."""
        assert self._running is not None, "start() first"
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_result_of(self._running))
            tasks.create_task(self._lead_forever())
            for name, react in (
                (self._files.config_name, self._reload_config),
                (self._files.location_name, self._heal_location),
            ):
                tasks.create_task(follow(self._files.store, name, react, period_s=LOOK_S))

    async def hand_over(self) -> None:
        """Answers no more and gives the lease back, so that another admin server leads at once."""
        if self._election is not None and self._running is not None:
            self._gate.close()
            if not self._running.done():
                await self._election.resign(RESIGN_TIMEOUT_S)
            self._running.cancel()
            await asyncio.wait((self._running,))

    async def stop(self) -> None:
        """Hands over, ends every call and frees the ports; nothing is unloaded or unpublished."""
        await self.hand_over()
        if self._http is not None:
            await self._http.stop()
        if self._server is not None:
            await self._server.stop(None)
        await self._step_down()

    async def _stand_for_election(self) -> None:
        """Leads if nobody else does. SaxError, and the lease is free again, if it cannot."""
        store = open_store(self._root, deadline_s=self._lease_ttl_s / 3)
        ttl_s = self._lease_ttl_s
        poll_s = min(store.poll_s, ttl_s / 4)
        lease = Lease(self.address, secrets.token_hex(8), ttl_s, poll_s)
        self._election = Election(store, self._files.lease_name, self._cell, lease)
        self._running = asyncio.create_task(self._election.run())
        settled = asyncio.ensure_future(self._election.settled())
        await asyncio.wait((self._running, settled), return_when=asyncio.FIRST_COMPLETED)
        if not settled.done():
            settled.cancel()
            await self._running  # which has failed
        if (tenure := self._election.tenure) is None:
            return
        try:
            await tenure.during(self._take_over(tenure))
        except TermOverError:
            await self._step_down()
        except SaxError:
            await self._election.resign(RESIGN_TIMEOUT_S)
            raise

    async def _lead_forever(self) -> None:
        assert self._election is not None
        while True:
            tenure = await self._election.lead()
            try:
                await tenure.during(self._reign(tenure))
            except TermOverError:
                pass
            except SaxError as error:
                _logger.error(
                    "Cannot lead %s: %s. Leaving it to other admin servers for %g s",
                    self._cell.full,
                    error,
                    ABSTAIN_S,
                )
                await self._election.abstain(ABSTAIN_S)
            finally:
                await self._step_down()

    async def _reign(self, tenure: Tenure) -> None:
        if self._manager is None:
            self._config = await _patiently(
                "read the configuration", lambda: asyncio.to_thread(self._load_config)
            )
            await self._take_over(tenure)
        assert self._manager is not None
        await self._manager.run()

    async def _take_over(self, tenure: Tenure) -> None:
        await _patiently(
            "write the location",
            lambda: asyncio.to_thread(self._files.announce, self.address, tenure.check),
        )
        _logger.info('SetAddr %s "%s"', self._files.location_path, self.address)
        _logger.info("Updated config: %s", _text(self._config))
        manager = Manager(
            self._cell,
            StateFile(self._config.fs_root, self._cell, tenure),
            periods=self._periods,
            connect=functools.partial(Modelet, term=tenure),
            on_reconciled=self.metrics.reconciled,
        )
        await _patiently("read the state", manager.restore)
        _logger.info("Loaded manager state")
        _logger.info("Refreshing manager state every %gs", self._periods.refresh)
        tenure.check()
        self._manager, self._tenure = manager, tenure
        # A new name for each term: who watched a former one is told everything again.
        service = AdminService(manager, f"{self.address}_{secrets.token_hex(8)}")
        self._gate.open(service, tenure.check)
        await self._health.say(leading=True)

    async def _step_down(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            self._gate.close()
            await self._health.say(leading=False)
            await manager.close()

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

    async def _reload_config(self) -> None:
        try:
            config = await asyncio.to_thread(self._files.read_config)
        except SaxError as error:
            _logger.warning("Cannot read the configuration: %s", error)
            return
        if config is None or config == self._config:
            return
        _logger.info("Updated config: %s", _text(config))
        if config.fs_root != self._config.fs_root:
            _logger.warning("The new fs_root is used by the next term of an admin server")
        self._config = config

    async def _heal_location(self) -> None:
        """Sets location.proto right where somebody else has written it."""
        tenure = self._tenure
        if self._manager is None or tenure is None:
            return
        try:
            if await asyncio.to_thread(self._files.announce, self.address, tenure.check):
                _logger.warning(
                    "%s named another admin server; it names this one again, which has the lease",
                    self._files.location_path,
                )
        except SaxError as error:
            _logger.warning("Cannot check the location: %s", error)

    async def _start_http(self) -> None:
        if not self._http_port:
            return
        pages = StatusPages(self._cell, self.address, self.standing, lambda: self._manager)
        http = HttpServer(pages, self.metrics, self.standing, fresh_s=FRESH * self._lease_ttl_s)
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
        except ConflictError as error:
            # Somebody else was faster, or an earlier attempt had arrived: look again.
            _logger.info("Reading again: %s", error)
        except UnavailableError as error:
            _logger.warning("Waiting to %s: %s; trying again in %g s", what, error, STORE_RETRY_S)
            await asyncio.sleep(STORE_RETRY_S)


def _text(config: admin_pb2.Config) -> str:
    return text_format.MessageToString(config).rstrip("\n")


async def _result_of(task: asyncio.Task[None]) -> None:
    """Fails when the task does, and leaves it alone otherwise."""
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
