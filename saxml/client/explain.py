"""Why a model has no replica, in words, from what the admin server tells."""

from saxml.proto import admin_pb2


def why_no_replica(
    published: admin_pb2.PublishedModel, cell_stats: admin_pb2.StatsResponse
) -> str | None:
    """The reason why a published model has fewer replicas than asked for; None if it has all.

    `cell_stats` are those of the whole cell.
    """
    model = published.model
    have, want = len(published.modelet_addresses), model.requested_num_replicas
    if have and have >= want:
        return None
    count = f"model {model.model_id} has {have} of {want} replicas"
    if want == 0:
        return f"{count}: none is asked for; saxutil update -replicas=1 {model.model_id}"
    able = cell_stats.num_servers_by_servable_model_path.get(model.model_path, 0)
    servers = sum(stat.num_replicas for stat in cell_stats.model_server_type_stats)
    paths = sorted(cell_stats.num_servers_by_servable_model_path)
    if not servers and not paths:
        return f"{count}: no model server has joined the cell"
    if not able:
        shown = ", ".join(paths[:5]) + (f", and {len(paths) - 5} more" if len(paths) > 5 else "")
        return (
            f"{count}: none of the {servers} model servers in the cell can serve "
            f"{model.model_path}; they serve {shown or 'nothing'}"
        )
    return (
        f"{count}: {able} of the {servers} model servers in the cell can serve {model.model_path}; "
        "they hold other models, or one is about to be assigned (within 10 s)"
    )
