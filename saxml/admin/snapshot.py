"""A moment of a cell as plain data: what the pages and the metrics tell of it."""

from dataclasses import dataclass

from saxml.admin.joined import Entry, JoinedServer
from saxml.admin.manager import Manager
from saxml.admin.published import Published
from saxml.common import chips
from saxml.common.names import ModelId
from saxml.proto import common_pb2

_DOING = {
    "LOADED": "it is loaded; clients are sent there in a moment",
    "LOADING": "the server was told to load it and has not answered yet",
    "UNLOADING": "requests under way end, then it is freed",
    "FAILED": "the server gives no reason",
    "NONE": "the server has not begun yet",
}


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on a server."""

    model: str
    address: str
    # NONE, LOADING, LOADED, FAILED or UNLOADING.
    status: str
    # Why it does not serve, or "".
    reason: str
    # Whether clients are sent there, and are served.
    is_ready: bool

    @property
    def doing(self) -> str:
        """What it does instead of serving, and why; "" when it serves."""
        return "" if self.is_ready else self.reason or _DOING[self.status]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A published model."""

    name: str
    wanted: int
    assigned: int
    ready: int
    path: str
    checkpoint: str
    overrides: tuple[tuple[str, str], ...]
    # Why replicas have no place, or "".
    note: str
    replicas: tuple[Replica, ...]

    @property
    def state(self) -> str:
        """In a word, how it is: what a person looks for first."""
        if self.ready >= self.wanted:
            return "Ready" if self.wanted else "Off"
        return "Partly ready" if self.ready else "Not ready"


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A joined model server."""

    address: str
    chip: str
    topology: str
    lag_s: float
    # One of joined.STATES, and in words why, or "".
    state: str
    explanation: str
    tags: tuple[str, ...]
    replicas: tuple[Replica, ...]


def models(manager: Manager, model_id: ModelId | None = None) -> list[ModelRow]:
    """One model or all of them, by name; NotFoundError if the one is not published."""
    if model_id is not None:
        chosen = [manager.registry.get(model_id)]
    else:
        chosen = [p for _, p in sorted(manager.registry.models.items())]
    by_model: dict[str, list[Replica]] = {}
    wanted: dict[str, int] = {}
    for server in sorted(manager.servers.values(), key=lambda s: s.address):
        for key, entry in server.entries.items():
            by_model.setdefault(key, []).append(_replica(server, key, entry))
            wanted[key] = wanted.get(key, 0) + entry.wanted
    return [_model(p, by_model.get(p.id.full, []), wanted.get(p.id.full, 0)) for p in chosen]


def servers(manager: Manager, model_id: ModelId | None = None) -> list[ServerRow]:
    """All servers, or those that hold one model, by address."""
    now = manager.clock.monotonic()
    chosen = list(manager.servers.values())
    if model_id is not None:
        chosen = [s for s in chosen if model_id.full in s.entries]
    return [_server(s, now) for s in sorted(chosen, key=lambda s: s.address)]


def server(manager: Manager, joined: JoinedServer) -> ServerRow:
    """One server, which may just have left."""
    return _server(joined, manager.clock.monotonic())


def _model(published: Published, replicas: list[Replica], assigned: int) -> ModelRow:
    proto = published.proto
    return ModelRow(
        name=proto.model_id,
        wanted=proto.requested_num_replicas,
        assigned=assigned,
        ready=sum(r.is_ready for r in replicas),
        path=proto.model_path,
        checkpoint=proto.checkpoint_path,
        overrides=tuple(sorted(proto.overrides.items())),
        note=published.unplaced,
        replicas=tuple(replicas),
    )


def _server(server: JoinedServer, now: float) -> ServerRow:
    state, lag = server.state, now - server.last_ping
    return ServerRow(
        address=server.address,
        chip=chips.chip_name(server.spec.chip_type),
        topology=chips.topology_name(server.spec.chip_topology),
        lag_s=lag,
        state=state,
        explanation=f"no answer for {lag:.0f} s" if state == "Silent" else "",
        tags=tuple(server.spec.tags),
        replicas=tuple(_replica(server, m, e) for m, e in sorted(server.entries.items())),
    )


def _replica(server: JoinedServer, model: str, entry: Entry) -> Replica:
    status = common_pb2.ModelStatus.Name(entry.status) if entry.wanted else "UNLOADING"
    reason = entry.reason
    if server.is_silent:
        reason = reason or "its server does not answer"
    return Replica(model, server.address, status, reason, server.is_ready(model))
