"""What others may see of a cell: answers to List and Stats, and rows of the status page."""

from collections import Counter
from dataclasses import dataclass

from saxml.admin.joined import JoinedServer
from saxml.admin.manager import Manager
from saxml.admin.published import Published
from saxml.common import chips
from saxml.common.names import ModelId
from saxml.proto import admin_pb2, common_pb2, modelet_pb2


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A published model."""

    name: str
    requested: int
    assigned: int
    path: str
    checkpoint: str
    # Why replicas are missing, or "".
    note: str


@dataclass(frozen=True, slots=True)
class ModelOnServer:
    """A model on a server; `status` is NONE, LOADING, LOADED, FAILED or UNLOADING."""

    name: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A joined model server."""

    address: str
    chip: str
    topology: str
    lag_s: float
    models: tuple[ModelOnServer, ...]
    is_dormant: bool


def _selected(manager: Manager, model_id: ModelId | None) -> list[Published]:
    if model_id is not None:
        return [manager.registry.get(model_id)]
    return [p for _, p in sorted(manager.registry.models.items())]


def list_models(manager: Manager, model_id: ModelId | None) -> admin_pb2.ListResponse:
    """One model or all of them, by name, with the servers that hold them."""
    response = admin_pb2.ListResponse()
    for published in _selected(manager, model_id):
        homes = manager.homes(published)
        item = response.published_models.add()
        item.model.CopyFrom(published.proto)
        item.model.ClearField("uuid")
        methods = {m for s in homes for m in s.entries[published.proto.model_id].methods}
        item.model.method_names.extend(sorted(methods))
        item.modelet_addresses.extend(sorted(s.address for s in homes))
    return response


def stats(manager: Manager, model_id: ModelId | None) -> admin_pb2.StatsResponse:
    """How many servers of which kind the cell has, or one model has."""
    servers: list[JoinedServer] = list(manager.servers.values())
    if model_id is not None:
        servers = manager.homes(manager.registry.get(model_id))
    response = admin_pb2.StatsResponse()
    kinds = Counter((s.spec.chip_type, s.spec.chip_topology) for s in servers)
    for (chip, topology), count in sorted(kinds.items()):
        response.model_server_type_stats.add(
            chip_type=chip, chip_topology=topology, num_replicas=count
        )
    paths = Counter(p for s in servers for p in s.spec.servable_model_paths)
    response.num_servers_by_servable_model_path.update(paths)
    return response


def model_rows(manager: Manager, model_id: ModelId | None = None) -> list[ModelRow]:
    """One model or all of them, by name."""
    return [
        ModelRow(
            name=p.proto.model_id,
            requested=p.proto.requested_num_replicas,
            assigned=len(manager.homes(p)),
            path=p.proto.model_path,
            checkpoint=p.proto.checkpoint_path,
            note=p.unplaced,
        )
        for p in _selected(manager, model_id)
    ]


def server_rows(manager: Manager, model_id: ModelId | None = None) -> list[ServerRow]:
    """All servers, or those that hold one model, by address."""
    now = manager.clock.monotonic()
    servers = list(manager.servers.values())
    if model_id is not None:
        servers = manager.homes(manager.registry.get(model_id))
    return [
        ServerRow(
            address=s.address,
            chip=chips.chip_name(s.spec.chip_type),
            topology=chips.topology_name(s.spec.chip_topology),
            lag_s=now - s.last_ping,
            models=tuple(
                ModelOnServer(
                    name=m,
                    status=common_pb2.ModelStatus.Name(e.status) if e.wanted else "UNLOADING",
                    reason=e.reason,
                )
                for m, e in sorted(s.entries.items())
            ),
            is_dormant=s.is_dormant,
        )
        for s in sorted(servers, key=lambda s: s.address)
    ]


def status_names(report: modelet_pb2.GetStatusResponse) -> list[ModelOnServer]:
    """What a server says of its models, by name."""
    models = sorted(report.models, key=lambda m: m.model_key)
    return [
        ModelOnServer(m.model_key, common_pb2.ModelStatus.Name(m.model_status), m.failure_reason)
        for m in models
    ]
