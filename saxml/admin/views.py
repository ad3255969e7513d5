"""What callers may see of a cell: answers to List and Stats."""

from collections import Counter

from saxml.admin.joined import JoinedServer
from saxml.admin.manager import Manager
from saxml.admin.published import Published
from saxml.common import list_detail
from saxml.common.names import ModelId
from saxml.proto import admin_pb2, internal_pb2


def _selected(manager: Manager, model_id: ModelId | None) -> list[Published]:
    if model_id is not None:
        return [manager.registry.get(model_id)]
    return [p for _, p in sorted(manager.registry.models.items())]


def list_models(manager: Manager, model_id: ModelId | None) -> admin_pb2.ListResponse:
    """One model or all of them, by name, with the servers that hold them, and how they are."""
    response, details = admin_pb2.ListResponse(), []
    all_homes: dict[str, list[JoinedServer]] = {}
    for server in manager.servers.values():
        for model, entry in server.entries.items():
            if entry.wanted:
                all_homes.setdefault(model, []).append(server)
    for published in _selected(manager, model_id):
        homes = all_homes.get(published.proto.model_id, [])
        item = response.published_models.add()
        item.model.CopyFrom(published.proto)
        item.model.ClearField("uuid")
        methods = {m for s in homes for m in s.entries[published.proto.model_id].methods}
        item.model.method_names.extend(sorted(methods))
        item.modelet_addresses.extend(sorted(s.address for s in homes))
        details.append(_detail(published, homes))
    list_detail.add(response, details)
    return response


def _detail(published: Published, homes: list[JoinedServer]) -> internal_pb2.ModelDetail:
    model, checkpoint = published.proto.model_id, published.proto.checkpoint_path
    ready = [s for s in homes if s.is_ready(model)]
    return internal_pb2.ModelDetail(
        model_id=model,
        ready=len(ready),
        current=sum(s.entries[model].checkpoint == checkpoint for s in ready),
        why=published.unplaced,
    )


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
