"""Why a model has fewer replicas than asked for, in words that say what would help."""

from saxml.admin import memory
from saxml.admin.fleet import Model, Server, too_small
from saxml.admin.places import MAX_MODELS_PER_SERVER, Places

# So many servers are named; the others are counted.
_NAMED = 3


def why_unplaced(model: Model, places: Places) -> str:
    """The reasons, behind how many replicas have a place."""
    holders = places.holders[model.id]
    prefix = f"{len(holders)} of {model.replicas} replicas placed: "
    if model.on_hold:
        return prefix + model.on_hold
    servers = places.servers.values()
    if not servers:
        return prefix + "no model server has joined this cell"
    kinds = places.offering(model.path)
    if not kinds:
        offered = sorted(places.paths)
        shown = ", ".join(offered[:5]) + (f", and {len(offered) - 5} more" if offered[5:] else "")
        return (
            f"{prefix}none of the {len(servers)} joined model servers offers {model.path};"
            f" they offer {shown or 'nothing'}"
        )
    if not places.number_offering(model):
        tags = ", ".join(sorted(model.tags))
        return f"{prefix}no server that offers {model.path} has the tag{'s' * (',' in tags)} {tags}"
    reasons = [model.barred[a] for a in sorted(model.barred) if a not in holders]
    reasons += [
        f"{s.address} {s.closed}"
        for _, s in sorted(places.closed.items())
        if model.path in s.paths and s.address not in holders
    ]
    reasons += _full(model, places)
    reasons += sorted({why for s in kinds if (why := too_small(s, model))})
    if model.need.known and model.need.why:
        reasons.append(model.need.why)
    if not reasons:
        count = places.number_offering(model)
        reasons.append(f"all {count} servers that offer it have it")
    more = f"; and {len(reasons) - _NAMED} more reasons" if reasons[_NAMED + 1 :] else ""
    return prefix + "; ".join(reasons[: _NAMED if more else None]) + more


def why_not_updated(model: Model, stale: int) -> str:
    """Said of a new checkpoint that is held back."""
    why = "; ".join(model.barred[a] for a in sorted(model.barred)[:_NAMED]) or model.on_hold
    why = why or "it could not be loaded yet"
    return f"{stale} of {model.replicas} replicas keep the former checkpoint: {why}"


def _full(model: Model, places: Places) -> list[str]:
    """About servers that could take it, were it not for what they hold."""
    others = [
        s
        for s in places.emptiest(model, _NAMED + len(places.holders[model.id]) + len(model.barred))
        if s.address not in places.holders[model.id] and s.address not in model.barred
    ][:_NAMED]
    if not others:
        return []
    if not model.need.known:
        verb = "hold" if others[1:] else "holds"
        return [
            f"nobody knows how much memory it needs ({model.need.why or 'no figure'}), so it takes"
            f" a server of its own, and {_names(others)} {verb} other models; publish it with"
            " ram=<GB a chip> to share one"
        ]
    return [_no_room(model, s, places) for s in others]


def _no_room(model: Model, server: Server, places: Places) -> str:
    if model.id in server.leaving:
        return f"it is being unloaded from {server.address}"
    free = max(0, places.free(server.address))
    need = model.need.per_chip(memory.chips_in(server.topology)) or 0
    if need <= free:
        held = places.number_held(server.address)
        return f"{server.address} holds {held} models; {MAX_MODELS_PER_SERVER} are the most"
    return (
        f"needs {memory.gigabytes(need)} a chip; {server.address} has"
        f" {memory.gigabytes(memory.capacity(server.chip))}, {memory.gigabytes(free)} free"
    )


def _names(servers: list[Server]) -> str:
    return ", ".join(s.address for s in servers)
