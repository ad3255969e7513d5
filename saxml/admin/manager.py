"""The admin server's mind: who has joined, and what must happen next.

Everything here runs in one event loop, which owns all of it. What happens next is decided by the
assigner, done by Actions, and decided anew whenever something has changed and every refresh period.
"""

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from saxml.admin import assigner, validate
from saxml.admin.actions import Actions
from saxml.admin.joined import Entry, JoinedServer
from saxml.admin.modelet import Modelet
from saxml.admin.published import Published
from saxml.admin.registry import Registry
from saxml.admin.state import StateFile
from saxml.admin.validate import braced
from saxml.common.clock import Clock, SystemClock
from saxml.common.errors import DeadlineExceededError, from_code, from_rpc_error
from saxml.common.names import CellId
from saxml.proto import admin_pb2, common_pb2, modelet_pb2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Periods:
    """Seconds between, or allowed for, what the manager does."""

    refresh: float = 10.0
    poll: float = 10.0
    poll_timeout: float = 10.0
    prune: float = 25.0
    dial: float = 10.0
    join_status: float = 5.0
    # How long a restarted admin server waits for servers to come back with what they have loaded.
    rejoin: float = 12.0


class Manager:
    """One cell; call restore(), then keep run() running."""

    def __init__(
        self,
        cell: CellId,
        state: StateFile,
        *,
        clock: Clock | None = None,
        periods: Periods | None = None,
        connect: Callable[[str], Modelet] = Modelet,
        on_reconciled: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """on_reconciled: told after each decision how many seconds it took."""
        self.cell = cell
        self.registry = Registry(cell, state, self)
        self.servers: dict[str, JoinedServer] = {}
        self.clock: Clock = clock or SystemClock()
        self._periods = periods or Periods()
        self._connect = connect
        self._on_reconciled = on_reconciled
        self._actions = Actions(self.clock, self._wake)
        self._woken = asyncio.Event()
        self._join_locks: weakref.WeakValueDictionary[str, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._closing: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """Takes over what was published before this process started."""
        await self.registry.restore(self.clock.monotonic() + self._periods.rejoin)

    async def run(self) -> None:
        """Decides anew at once when something has changed, and every refresh period."""
        while True:
            self._woken.clear()
            due = math.inf
            try:
                due = self.reconcile()
            except Exception:
                _logger.exception("Deciding what to do failed; trying again")
            wait = min(self._periods.refresh, max(0.0, due - self.clock.monotonic()))
            # Not wait_for(), which may swallow a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._woken.wait()

    async def close(self) -> None:
        """Ends every line to a model server; nothing is unloaded."""
        servers, self.servers = list(self.servers.values()), {}
        await asyncio.gather(*(s.close() for s in servers), *self._closing)

    def homes(self, published: Published) -> list[JoinedServer]:
        """The servers that were told to hold the model."""
        return [s for s in self.servers.values() if s.wants(published.proto.model_id)]

    async def wait_for_ready(self, published: Published, num_replicas: int) -> bool:
        """True when at least so many servers have it ready, False when it is unpublished."""
        model = published.proto.model_id
        while not published.closed:
            if sum(s.has_loaded(model) for s in self.servers.values()) >= num_replicas:
                return True
            await published.bell.wait()
        return False

    async def join(self, request: admin_pb2.JoinRequest) -> None:
        """Takes in a model server, or hears from one that has joined already."""
        validate.check_join(request)
        lock = self._join_locks.setdefault(request.address, asyncio.Lock())
        async with lock:
            known = self.servers.get(request.address)
            if known is None or not known.is_same(request):
                await self._take_in(request)
                return
            known.note_join(request, self.clock)
            if not known.modelet.is_connected():
                # It may be a new process without the models of the old one.
                await self.poll(known)

    async def poll(self, server: JoinedServer) -> None:
        """Asks a server how it is doing and draws the consequences."""
        version = server.version
        try:
            report = await server.modelet.get_status(self._periods.poll_timeout)
        except grpc.RpcError as error:
            _logger.warning(
                "Failed to refresh model server (%s) state: %s",
                server.address,
                from_rpc_error(error),
            )
            self._wake()
            return
        if self.servers.get(server.address) is not server:
            return
        server.last_ping = self.clock.monotonic()
        merged = server.merge(report, version)
        for model in merged.lost:
            _logger.warning("Model server %s has lost model %s", server.address, model)
        for model, reason in merged.failed.items():
            self._actions.failed(server, self.registry.models[model], reason)
        if merged.lost or merged.failed or merged.changed:
            for published in self.registry.models.values():
                published.bell.ring()
            self._wake()

    def reconcile(self) -> float:
        """Decides and starts what must happen now; tells when, on the clock, to look again."""
        start = time.perf_counter()
        due = self._reconcile(self.clock.monotonic())
        self._on_reconciled(time.perf_counter() - start)
        return due

    def _reconcile(self, now: float) -> float:
        self._prune(now)
        self._retry(now)
        models = self.registry.models
        plan = assigner.plan(
            [self._view(s, now) for s in self.servers.values()],
            [
                assigner.Model(
                    id=i,
                    path=p.proto.model_path,
                    replicas=p.proto.requested_num_replicas,
                    on_hold=self._on_hold(p, now),
                )
                for i, p in models.items()
            ],
        )
        for move in plan.unloads:
            self._actions.unload(self.servers[move.address], move.model)
        # What goes leaves the clients' sets before what comes is added.
        self._sync_watchers()
        for move in plan.loads:
            self._actions.load(self.servers[move.address], models[move.model])
        self._sync_watchers()
        self._note_unplaced(plan)
        return self._next_due(now)

    def on_registry_change(self) -> None:
        """See registry.Listener."""
        self.reconcile()

    def on_settings_change(self, published: Published, *, new_checkpoint: bool) -> None:
        """See registry.Listener."""
        for server in self.homes(published):
            self._actions.update(server, published, with_checkpoint=new_checkpoint)

    def is_being_unloaded(self, model: str) -> bool:
        """See registry.Listener."""
        entries = (s.entries.get(model) for s in self.servers.values())
        return any(e is not None and not e.wanted and e.busy > 0 for e in entries)

    def _wake(self) -> None:
        self._woken.set()

    async def _take_in(self, request: admin_pb2.JoinRequest) -> None:
        modelet = self._connect(request.address)
        try:
            report = await self._first_report(modelet)
        except BaseException:
            await modelet.close()
            raise
        old = self.servers.pop(request.address, None)
        if old is not None:
            self._close_later(old)
        _logger.info("Initializing state from model server %s", request.address)
        server = JoinedServer(request, modelet)
        server.note_join(request, self.clock)
        server.last_ping = self.clock.monotonic()
        self.servers[request.address] = server
        for model in report.models:
            self._adopt(server, model)
        server.merge(report, server.version)
        _logger.info(
            "Refreshing model server %s state every %gs", request.address, self._periods.poll
        )
        server.poll_task = asyncio.create_task(self._poll_forever(server))
        self.reconcile()

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

    def _adopt(
        self, server: JoinedServer, model: modelet_pb2.GetStatusResponse.ModelWithStatus
    ) -> None:
        """Takes over a model that a joining server has already."""
        key, status = model.model_key, model.model_status
        published = self.registry.models.get(key)
        if published is not None and status in (common_pb2.LOADING, common_pb2.LOADED):
            _logger.info(
                "Found a model %s with status %s on server %s",
                braced(published.id),
                common_pb2.ModelStatus.Name(status).capitalize(),
                server.address,
            )
            server.entries[key] = Entry(status=status, attempted=True)
            # The checkpoint may have changed while nobody could tell the server, which loads it
            # anew only if it has another one.
            self._actions.update(server, published, with_checkpoint=True)
        elif published is not None and status == common_pb2.FAILED:
            server.entries[key] = Entry(status=status, attempted=True)
            reason = model.failure_reason or "it had failed before the server joined"
            self._actions.failed(server, published, reason)
        elif self.registry.was_unpublished(key):
            server.entries[key] = Entry(status=status, attempted=True)
            self._actions.unload(server, key)
        elif published is None:
            _logger.warning(
                "Model server %s has %s, which is not published here; it is left alone",
                server.address,
                key,
            )

    async def _poll_forever(self, server: JoinedServer) -> None:
        while True:
            # A server that does not answer is asked again right before it is taken out.
            left = server.last_ping + self._periods.prune - self.clock.monotonic()
            await asyncio.sleep(min(self._periods.poll, left) if left > 0 else self._periods.poll)
            await self.poll(server)

    def _prune(self, now: float) -> None:
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

    def _retry(self, now: float) -> None:
        for server in self.servers.values():
            for model, entry in list(server.entries.items()):
                if entry.busy or entry.retry_at > now:
                    continue
                if not entry.wanted:
                    self._actions.unload(server, model)
                elif entry.update_due and model in self.registry.models:
                    published = self.registry.models[model]
                    self._actions.update(server, published, with_checkpoint=True)

    def _view(self, server: JoinedServer, now: float) -> assigner.Server:
        models, address = self.registry.models.items(), server.address
        barred = {i: why for i, p in models if (why := p.failures.barred(address, now))}
        failures = {i: count for i, p in models if (count := p.failures.count(address))}
        return server.view(barred, failures)

    def _on_hold(self, published: Published, now: float) -> str:
        if published.held_until > now:
            return "waiting for model servers to come back after a restart of the admin server"
        return published.failures.held(now)

    def _sync_watchers(self) -> None:
        for published in self.registry.models.values():
            if published.watched.update(s.data_address for s in self.homes(published)):
                published.bell.ring()

    def _note_unplaced(self, plan: assigner.Plan) -> None:
        for model_id, published in self.registry.models.items():
            reason = plan.unplaced.get(model_id, "")
            # The rest of the text counts seconds.
            if reason and reason.split(" (next")[0] != published.unplaced.split(" (next")[0]:
                _logger.info("Model %s: %s", braced(published.id), reason)
            published.unplaced = reason

    def _next_due(self, now: float) -> float:
        times = [s.last_ping + self._periods.prune for s in self.servers.values()]
        for published in self.registry.models.values():
            times += [published.failures.next_due(now), published.held_until]
        for server in self.servers.values():
            times += [e.retry_at for e in server.entries.values()]
        return min((t for t in times if t > now), default=math.inf)

    def _close_later(self, server: JoinedServer) -> None:
        task = asyncio.create_task(server.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
