"""The admin server's mind: what must happen next, and when.

Everything here runs in one event loop, which owns all of it. What happens next is decided by the
assigner and done by Actions. A change of a model or a replica is looked at alone and at once; the
whole cell is looked at every refresh period, and when its members have changed.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable

from saxml.admin import fleet, waker
from saxml.admin.actions import Actions
from saxml.admin.changes import Changes
from saxml.admin.checkpoint_size import CheckpointSizes, Size, read_size
from saxml.admin.decider import Decider, Decision
from saxml.admin.joined import Entry, JoinedServer, Merged
from saxml.admin.members import Members
from saxml.admin.memory import Need
from saxml.admin.modelet import Modelet
from saxml.admin.periods import Periods
from saxml.admin.published import Published
from saxml.admin.registry import Registry
from saxml.admin.state import StateFile
from saxml.admin.validate import braced
from saxml.common.clock import Clock, SystemClock
from saxml.common.names import CellId
from saxml.proto import admin_pb2, common_pb2, modelet_pb2

__all__ = ["Manager", "Periods"]

# Answers to calls go out before what follows from them is decided; what comes together is decided
# together, and decisions about the whole cell leave most of the time to others.
_PAUSE_S, _LONGEST_PAUSE_S, _PAUSES = 0.002, 0.25, 2.0

_logger = logging.getLogger(__name__)


class Manager:
    """One cell; call restore(), then keep run() running, and close() at the end.

    After close() nothing is decided, told or taken in any more, whatever is still under way;
    restore() begins anew.
    """

    def __init__(
        self,
        cell: CellId,
        state: StateFile,
        *,
        clock: Clock | None = None,
        periods: Periods | None = None,
        connect: Callable[[str], Modelet] = Modelet,
        on_reconciled: Callable[[float], None] = lambda seconds: None,
        read_size: Callable[[str], Size] = read_size,
    ) -> None:
        """on_reconciled: told after each decision how many seconds it took. read_size: gives the
        size of a checkpoint, in a thread."""
        self.cell = cell
        self.registry = Registry(cell, state, self)
        self.clock: Clock = clock or SystemClock()
        self._periods = periods or Periods()
        self._on_reconciled = on_reconciled
        self._read_size = read_size
        self._members = Members(self.clock, self._periods, connect, self)
        self._actions = Actions(self.clock, self._note, self.poll, self._periods.grace)
        self._sizes = self._new_sizes()
        self._decider = Decider(self._view)
        self._changes = Changes()
        self._woken = asyncio.Event()
        # When the whole cell must be looked at, and its sleeping servers.
        self._due = self._wakers_due = -math.inf
        # How long it took to look at the whole cell.
        self._cost_s = 0.0
        self._open = False

    @property
    def servers(self) -> dict[str, JoinedServer]:
        """The joined model servers, by address."""
        return self._members.servers

    async def restore(self) -> None:
        """Takes over what was published before this process started."""
        self._open = True
        self._members.open()
        self._sizes = self._new_sizes()
        self._changes.note_everything()
        await self.registry.restore(self.clock.monotonic() + self._periods.rejoin)

    async def run(self) -> None:
        """Decides anew soon after something has changed, and every refresh period."""
        while True:
            self._woken.clear()
            due = math.inf
            try:
                due = self.decide()
            except Exception:
                _logger.exception("Deciding what to do failed; trying again")
                self._changes.note_everything()
            wait = min(self._periods.refresh, max(0.0, due - self.clock.monotonic()))
            # Not wait_for(), which may swallow a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            pause = _PAUSE_S if self._changes.are_few else _PAUSES * self._cost_s
            await asyncio.sleep(min(max(pause, _PAUSE_S), _LONGEST_PAUSE_S))

    async def close(self) -> None:
        """Ends every line to a model server; nothing is unloaded."""
        self._open = False
        self._sizes.close()
        await self._members.close()

    def homes(self, published: Published) -> list[JoinedServer]:
        """The servers that were told to hold the model."""
        return [s for s in self.servers.values() if s.wants(published.proto.model_id)]

    async def wait_for_ready(self, published: Published, num_replicas: int) -> bool:
        """True when at least so many servers have it ready, False when it is unpublished."""
        model = published.proto.model_id
        while not published.closed:
            if sum(s.is_ready(model) for s in self.servers.values()) >= num_replicas:
                return True
            await published.bell.wait()
        return False

    async def join(self, request: admin_pb2.JoinRequest) -> None:
        """Takes in a model server, or hears from one that has joined already."""
        await self._members.join(request)

    async def poll(self, server: JoinedServer) -> None:
        """Asks a server how it is doing and draws the consequences."""
        await self._members.poll(server)

    def decide(self) -> float:
        """Starts what must happen now; tells when, on the clock, to look again at the latest."""
        now = self.clock.monotonic()
        if now >= self._due or not self._changes.are_few:
            return self.reconcile()
        if self._open and (self._changes.servers or self._changes.models):
            start = time.perf_counter()
            changes = self._changes.take()
            self._retry(self._joined(changes.servers), now)
            models = self.registry.models
            decision = self._decider.part(changes, self.servers, models, now)
            self._act(decision, now)
            self._due = min(self._due, self._next_due(decision, now))
            self._on_reconciled(time.perf_counter() - start)
        return self._due

    def reconcile(self) -> float:
        """As decide(), but looks at the whole cell in any case."""
        if not self._open:
            return math.inf
        start, now = time.perf_counter(), self.clock.monotonic()
        self._changes.take()
        self._members.prune(now)
        self._retry(self.servers.values(), now)
        decision = self._decider.whole(self.servers, self.registry.models, now)
        self._act(decision, now)
        if now >= self._wakers_due:
            self._wakers_due = now + self._periods.refresh
            self._wake_servers()
        self._due = min(self._wakers_due, self._next_due(decision, now))
        self._cost_s = time.perf_counter() - start
        self._on_reconciled(self._cost_s)
        return self._due

    def on_registry_change(self, models: Collection[str]) -> None:
        """See registry.Listener."""
        for model in models:
            if model not in self.registry.models:
                # Loads of it that have not begun shall not.
                for server in self.servers.values():
                    if server.wants(model):
                        self._actions.unload(server, model)
        self._changes.note_models(models)
        self._wake()

    def is_being_unloaded(self, model: str) -> bool:
        """See registry.Listener."""
        entries = (s.entries.get(model) for s in self.servers.values())
        return any(e is not None and not e.wanted and e.busy > 0 for e in entries)

    def on_join(self, server: JoinedServer, report: modelet_pb2.GetStatusResponse) -> None:
        """See members.Listener."""
        for model in report.models:
            self._adopt(server, model)
        # Clients hear of it at once. All servers of a cell join a new leader together: what they
        # shall do is decided once for many of them.
        self._show(self._published(server.entries))
        self._ring(server.entries)
        self._wake_for_everything()

    def on_report(self, server: JoinedServer, merged: Merged) -> None:
        """See members.Listener."""
        for model in merged.lost:
            _logger.warning("Model server %s has lost model %s", server.address, model)
        for model, reason in merged.failed.items():
            self._actions.failed(server, self.registry.models[model], reason)
        for model in (*merged.lost, *merged.failed, *merged.changed):
            self._note(server.address, model)
        self._ring([*merged.lost, *merged.failed, *merged.changed])

    def on_members_change(self, server: JoinedServer) -> None:
        """See members.Listener."""
        if self._open:
            self._show(self._published(server.entries))
        self._wake_for_everything()

    def _note(self, server: str, model: str) -> None:
        self._changes.note(server, model)
        self._wake()

    def _wake_for_everything(self) -> None:
        self._changes.note_everything()
        self._wake()

    def _wake(self) -> None:
        self._woken.set()

    def _new_sizes(self) -> CheckpointSizes:
        return CheckpointSizes(
            self.clock,
            self._wake_for_everything,
            patience_s=self._periods.size,
            read=self._read_size,
        )

    def _act(self, decision: Decision, now: float) -> None:
        plan, models = decision.plan, self.registry.models
        for move in plan.unloads:
            self._actions.unload(self.servers[move.address], move.model)
        # What goes leaves the clients' sets before what comes is added.
        self._show(decision.models)
        for move in plan.loads:
            self._actions.load(self.servers[move.address], models[move.model])
        for move in plan.surges:
            self._actions.load(self.servers[move.address], models[move.model], hidden=True)
        for move in plan.updates:
            self._update(self.servers[move.address], models[move.model])
        self._hand_on_acls(decision.servers, now)
        self._show(decision.models)
        self._note_unplaced(decision)
        for move in (*plan.unloads, *plan.loads, *plan.surges, *plan.updates):
            self._changes.note(move.address, move.model)

    def _adopt(
        self, server: JoinedServer, model: modelet_pb2.GetStatusResponse.ModelWithStatus
    ) -> None:
        """Takes over a model that a joining server has already."""
        key, status = model.model_key, model.model_status
        published = self.registry.models.get(key)
        if status == common_pb2.UNLOADING:
            server.entries[key] = Entry(status=status, wanted=False, attempted=True, going=True)
        elif published is not None and status in (common_pb2.LOADING, common_pb2.LOADED):
            _logger.info(
                "Found a model %s with status %s on server %s",
                braced(published.id),
                common_pb2.ModelStatus.Name(status).capitalize(),
                server.address,
            )
            # The checkpoint may have changed while nobody could tell the server: it is checked.
            server.entries[key] = Entry(status=status, attempted=True)
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

    def _retry(self, servers: Iterable[JoinedServer], now: float) -> None:
        for server in servers:
            for model, entry in list(server.entries.items()):
                if not (entry.wanted or entry.busy or entry.going) and entry.retry_at <= now:
                    self._actions.unload(server, model)

    def _hand_on_acls(self, servers: Iterable[JoinedServer], now: float) -> None:
        for server in servers:
            for model, entry in server.entries.items():
                published = self.registry.models.get(model)
                if (
                    published is not None
                    and entry.wanted
                    and entry.attempted
                    and entry.checkpoint is not None
                    and entry.acls != published.acls
                    and not entry.updating
                    and entry.retry_at <= now
                ):
                    self._actions.hand_on(server, published)

    def _update(self, server: JoinedServer, published: Published) -> None:
        if server.entries[published.proto.model_id].checkpoint is None:
            self._actions.check(server, published)
        else:
            self._actions.replace(server, published)

    def _view(self, published: Published, now: float) -> fleet.Model:
        proto, failures = published.proto, published.failures
        need, on_hold = published.need, self._on_hold(published, now)
        if not need.by_chips:
            size = self._sizes.get(proto.checkpoint_path)
            if size is None:
                on_hold = on_hold or "the size of its checkpoint is being read"
            else:
                need = Need(total=size.bytes, why=need.why or size.why)
        return fleet.Model(
            id=proto.model_id,
            path=proto.model_path,
            replicas=proto.requested_num_replicas,
            need=need,
            tags=published.tags,
            on_hold=on_hold,
            barred=failures.all_barred(now),
            failures=failures.counts(),
            failing=failures.in_a_row > 0,
        )

    def _on_hold(self, published: Published, now: float) -> str:
        if published.held_until > now:
            return "waiting for model servers to come back after a restart of the admin server"
        return published.failures.held(now)

    def _show(self, models: Collection[Published]) -> None:
        """Tells those who watch these models where they are."""
        ids = {p.proto.model_id for p in models}
        addresses: dict[str, set[str]] = {i: set() for i in ids}
        for server in self.servers.values():
            if not server.is_silent:
                # Whichever is the shorter way.
                entries = server.entries
                for model in entries.keys() & ids if len(ids) > len(entries) else ids:
                    entry = entries.get(model)
                    if entry is not None and entry.wanted and not entry.hidden:
                        addresses[model].add(server.data_address)
        for published in models:
            if published.watched.update(addresses[published.proto.model_id]):
                published.bell.ring()

    def _published(self, models: Iterable[str]) -> list[Published]:
        found = (self.registry.models.get(m) for m in models)
        return [p for p in found if p is not None]

    def _joined(self, addresses: Iterable[str]) -> list[JoinedServer]:
        found = (self.servers.get(a) for a in addresses)
        return [s for s in found if s is not None]

    def _ring(self, models: Iterable[str]) -> None:
        for published in self._published(models):
            published.bell.ring()

    def _note_unplaced(self, decision: Decision) -> None:
        for published in decision.models:
            reason = decision.plan.unplaced.get(published.proto.model_id, "")
            # The rest of the text counts seconds.
            if reason and reason.split(" (next")[0] != published.unplaced.split(" (next")[0]:
                _logger.info("Model %s: %s", braced(published.id), reason)
            published.unplaced = reason

    def _wake_servers(self) -> None:
        homes: dict[str, list[waker.Sleeper]] = {}
        for server in self.servers.values():
            for model in server.entries:
                homes.setdefault(model, []).append(server.as_sleeper())
        chosen = {waker.choose(sleepers) for sleepers in homes.values()}
        for address in sorted(a for a in chosen if a is not None):
            self._actions.wake_up(self.servers[address])

    def _next_due(self, decision: Decision, now: float) -> float:
        times = [self._sizes.next_due(now)]
        for server in decision.servers:
            times.append(server.last_ping + self._periods.prune)
            times += [e.retry_at for e in server.entries.values()]
        for published in decision.models:
            times += [published.failures.next_due(now), published.held_until]
        return min((t for t in times if t > now), default=math.inf)
