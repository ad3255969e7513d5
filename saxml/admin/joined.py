"""A model server as the admin server sees it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from saxml.admin.fleet import Held, Server
from saxml.admin.modelet import Modelet
from saxml.admin.modelet_queue import ModeletQueue
from saxml.admin.published import Published
from saxml.admin.waker import Sleeper
from saxml.common.clock import Clock
from saxml.proto import admin_pb2, common_pb2, modelet_pb2

# What a model server that leaves says of itself in its status.
DRAINING = "draining"
# What a server can be, for pages, metrics and Stats.
STATES = ("Active", "Dormant", "Draining", "Silent")


@dataclass(slots=True)
class Entry:
    """One model on one server."""

    status: common_pb2.ModelStatus = common_pb2.LOADING
    # Told to load, not told to unload.
    wanted: bool = True
    # Wanted, but clients shall not come: it is being replaced, or is to replace another.
    hidden: bool = False
    # Whether the server says of a model that was loaded that it does not go on.
    stalled: bool = False
    # Actions queued or under way; meanwhile the server's reports about the model are not heeded.
    busy: int = 0
    # The server may know of it: a Load was sent, or the server reported it.
    attempted: bool = False
    # The checkpoint and the access lists that the server was told; None: not known.
    checkpoint: str | None = None
    acls: bytes | None = None
    # The server takes it down without being told to.
    going: bool = False
    # An update of the checkpoint is queued or under way.
    updating: bool = False
    # Before this time, on the manager's clock, clients may not know yet that it is gone.
    leave_at: float = 0.0
    retry_at: float = 0.0
    retries: int = 0
    reason: str = ""
    methods: frozenset[str] = frozenset()
    version: int = 0

    @property
    def is_ready(self) -> bool:
        """Loaded, and shown to clients."""
        return self.wanted and not self.hidden and self.status == common_pb2.LOADED


@dataclass(slots=True)
class Merged:
    """What a report of the server changed."""

    lost: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)


class JoinedServer:
    """The server's description, its line and queue, and the models on it."""

    def __init__(self, request: admin_pb2.JoinRequest, modelet: Modelet) -> None:
        self.address = request.address
        self.data_address = request.data_address or request.address
        self.modelet = modelet
        self.queue = ModeletQueue(request.address)
        self.entries: dict[str, Entry] = {}
        self.last_ping = 0.0
        self.last_join_ms = 0
        self.failed_polls = 0
        # It does not answer: clients are not sent there, and nothing is loaded there.
        self.is_silent = False
        self.is_draining = False
        self.is_dormant = False
        self.rejections = self.rejections_before = 0.0
        # Set when it shall be asked for its status at once.
        self.poll_soon = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self._version = 0
        self._describe(request)

    def note_join(self, request: admin_pb2.JoinRequest, clock: Clock) -> None:
        """Takes over what a server may change without being a new one, and the time."""
        self._describe(request)
        self.last_join_ms = int(clock.time() * 1000)

    def _describe(self, request: admin_pb2.JoinRequest) -> None:
        self.spec = request.model_server
        self.debug_address = request.debug_address
        self._paths = frozenset(self.spec.servable_model_paths)
        self._tags = frozenset(self.spec.tags)

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

    def is_ready(self, model: str) -> bool:
        """Whether clients can use the model here."""
        entry = self.entries.get(model)
        return entry is not None and entry.is_ready and not self.is_silent

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.is_silent:
            return "Silent"
        if self.is_draining:
            return "Draining"
        return "Dormant" if self.is_dormant else "Active"

    @property
    def why_closed(self) -> str:
        """Why it takes no further models, or ""."""
        if self.is_draining:
            return "is draining"
        return "does not answer" if self.is_silent else ""

    def view(self, models: Mapping[str, Published], now: float) -> Server:
        """The server as the assigner takes it."""
        entries = self.entries.items()
        return Server(
            address=self.address,
            paths=self._paths,
            held={m: self._held(e, models.get(m), now) for m, e in entries if e.wanted},
            leaving=frozenset(m for m, e in entries if not e.wanted and not e.retries),
            stuck=frozenset(m for m, e in entries if not e.wanted and e.retries),
            closed=self.why_closed,
            chip=self.spec.chip_type,
            topology=self.spec.chip_topology,
            tags=self._tags,
        )

    def _held(self, entry: Entry, published: Published | None, now: float) -> Held:
        known = entry.checkpoint is not None
        return Held(
            ready=entry.is_ready and not self.is_silent,
            stale=(
                known
                and entry.attempted
                and published is not None
                and entry.checkpoint != published.proto.checkpoint_path
            ),
            unsure=entry.attempted and not known,
            updating=entry.updating or (entry.attempted and not known and entry.retry_at > now),
        )

    def as_sleeper(self) -> Sleeper:
        """The server as the waker takes it."""
        return Sleeper(self.address, self.is_dormant, self.rejections, self.rejections_before)

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
        said_of_itself = report.server_status
        self.is_dormant = said_of_itself.state == said_of_itself.DORMANT
        self.is_draining = said_of_itself.explanation.lower() == DRAINING
        self.rejections_before = self.rejections
        self.rejections = said_of_itself.stats.early_rejection_errors_per_second
        for key, entry in list(self.entries.items()):
            said = reported.get(key)
            if said is not None and said.method_stats:
                entry.methods = frozenset(s.method for s in said.method_stats)
            if entry.busy or entry.version > version:
                continue
            if said is None or said.model_status == common_pb2.NONE:
                del self.entries[key]
                merged.changed.add(key)
                if entry.wanted:
                    merged.lost.append(key)
            elif entry.wanted and said.model_status == common_pb2.UNLOADING:
                entry.wanted, entry.going = False, True
                entry.status = said.model_status
                merged.changed.add(key)
            elif entry.wanted and said.model_status == common_pb2.FAILED:
                merged.failed[key] = said.failure_reason or "the server gives no reason"
            elif entry.wanted:
                show = entry.hidden and said.model_status == common_pb2.LOADED
                if (entry.status, said.model_status) == (common_pb2.LOADED, common_pb2.LOADING):
                    # Its step stands still. Clients go elsewhere until it goes on.
                    entry.hidden = entry.stalled = True
                    entry.reason = said.failure_reason
                elif show and entry.stalled:
                    entry.stalled, entry.reason = False, ""
                if show or said.model_status != entry.status:
                    entry.status = said.model_status
                    entry.hidden = entry.hidden and not show
                    merged.changed.add(key)
        return merged

    async def close(self) -> None:
        """Ends the line and everything under way on it."""
        for task in self.tasks:
            task.cancel()
        await self.queue.close()
        await self.modelet.close()
