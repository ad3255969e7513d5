"""A model server as the admin server sees it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from saxml.admin import assigner
from saxml.admin.modelet import Modelet
from saxml.admin.modelet_queue import ModeletQueue
from saxml.common.clock import Clock
from saxml.proto import admin_pb2, common_pb2, modelet_pb2


@dataclass(slots=True)
class Entry:
    """One model on one server."""

    status: common_pb2.ModelStatus = common_pb2.LOADING
    # Told to load, not told to unload; only wanted entries are shown to clients.
    wanted: bool = True
    # Actions queued or under way; meanwhile the server's reports about the model are not heeded.
    busy: int = 0
    # The server may know of it: a Load was sent, or the server reported it.
    attempted: bool = False
    # An UpdateLoaded failed and shall be tried again, with the checkpoint if it says so.
    update_due: bool = False
    retry_at: float = 0.0
    retries: int = 0
    reason: str = ""
    methods: frozenset[str] = frozenset()
    version: int = 0


@dataclass(slots=True)
class Merged:
    """What a report of the server changed."""

    lost: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    changed: bool = False


class JoinedServer:
    """The server's description, its line and queue, and the models on it."""

    def __init__(self, request: admin_pb2.JoinRequest, modelet: Modelet) -> None:
        self.address = request.address
        self.spec = request.model_server
        self.data_address = request.data_address or request.address
        self.debug_address = request.debug_address
        self.modelet = modelet
        self.queue = ModeletQueue(request.address)
        self.entries: dict[str, Entry] = {}
        self.last_ping = 0.0
        self.last_join_ms = 0
        self.is_dormant = False
        self.poll_task: asyncio.Task[None] | None = None
        self._version = 0

    def note_join(self, request: admin_pb2.JoinRequest, clock: Clock) -> None:
        """Takes over what a server may change without being a new one, and the time."""
        self.spec = request.model_server
        self.debug_address = request.debug_address
        self.last_join_ms = int(clock.time() * 1000)

    def is_same(self, request: admin_pb2.JoinRequest) -> bool:
        """Whether a Join only repeats what is known; tags may differ."""
        new, old = request.model_server, self.spec
        return (
            new.chip_type == old.chip_type
            and new.chip_topology == old.chip_topology
            and list(new.servable_model_paths) == list(old.servable_model_paths)
            and (request.data_address or request.address) == self.data_address
        )

    def wants(self, model: str) -> bool:
        """Whether the server was told to hold the model."""
        entry = self.entries.get(model)
        return entry is not None and entry.wanted

    def has_loaded(self, model: str) -> bool:
        """Whether the model is ready on the server."""
        entry = self.entries.get(model)
        return entry is not None and entry.wanted and entry.status == common_pb2.LOADED

    def view(self, barred: Mapping[str, str], failures: Mapping[str, int]) -> assigner.Server:
        """The server as the assigner takes it, with what speaks against giving it a model."""
        leaving = {
            m: f"it is being unloaded from {self.address}"
            for m, e in self.entries.items()
            if not e.wanted
        }
        return assigner.Server(
            address=self.address,
            paths=frozenset(self.spec.servable_model_paths),
            held=tuple(m for m, e in self.entries.items() if e.wanted),
            loaded=frozenset(m for m in self.entries if self.has_loaded(m)),
            barred={**leaving, **barred},
            failures=failures,
            chip=self.spec.chip_type,
            topology=self.spec.chip_topology,
            tags=tuple(self.spec.tags),
        )

    def touch(self, entry: Entry) -> None:
        """Marks an entry as changed by us: reports asked for before this do not count for it."""
        self._version += 1
        entry.version = self._version

    @property
    def version(self) -> int:
        """To be read before a report is asked for, and given to merge() with it."""
        return self._version

    def merge(self, report: modelet_pb2.GetStatusResponse, version: int) -> Merged:
        """Takes over a report, unless an action of ours is newer."""
        reported = {m.model_key: m for m in report.models}
        merged = Merged()
        self.is_dormant = report.server_status.state == report.server_status.DORMANT
        for key, entry in list(self.entries.items()):
            said = reported.get(key)
            if said is not None and said.method_stats:
                entry.methods = frozenset(s.method for s in said.method_stats)
            if entry.busy or entry.version > version:
                continue
            if said is None or said.model_status == common_pb2.NONE:
                del self.entries[key]
                merged.changed = True
                if entry.wanted:
                    merged.lost.append(key)
            elif entry.wanted and said.model_status == common_pb2.FAILED:
                merged.failed[key] = said.failure_reason or "the server gives no reason"
            elif entry.wanted and said.model_status != entry.status:
                entry.status = said.model_status
                merged.changed = True
        return merged

    async def close(self) -> None:
        """Ends the line and everything under way on it."""
        if self.poll_task is not None:
            self.poll_task.cancel()
        await self.queue.close()
        await self.modelet.close()
