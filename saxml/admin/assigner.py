"""Which server shall load, update or unload which model: pure functions over plain data.

    plan(servers, models).loads == (Move("10.0.0.1:10001", "/sax/test/lm"),)

The same servers and models, in any order, give the same plan. What is in place stays. Every model
has one replica before any has two; those with the fewest servers to choose from, and the largest,
come first. A replica goes where there is memory for it: to a server that did not fail with it, on a
host that has none yet, that holds the least, and of those to the one with most free memory.
"""

from collections import Counter
from collections.abc import Sequence

from saxml.admin import reasons, rolling
from saxml.admin.fleet import Held, Model, Move, Plan, Server
from saxml.admin.places import MAX_MODELS_PER_SERVER, Places
from saxml.admin.rolling import Home

__all__ = ["MAX_MODELS_PER_SERVER", "Held", "Model", "Move", "Plan", "Server", "decide", "plan"]


def plan(servers: Sequence[Server], models: Sequence[Model]) -> Plan:
    """The moves that bring `servers` to what `models` ask for."""
    servers = sorted(servers, key=lambda s: s.address)
    return decide(Places(servers, {m.id: m for m in models}), servers, models)


def decide(places: Places, servers: Sequence[Server], models: Sequence[Model]) -> Plan:
    """The moves for some models only, and for what some servers hold that is not published.

    The same as plan() if nothing is to be done for all others: their places have not changed since
    a plan in which they were neither moved nor unsettled. `places` are left as after the moves.
    """
    models = sorted(models, key=lambda m: m.id)
    unloads = [Move(s.address, i) for s in servers for i in s.held if i not in places.holders]
    for model in models:
        if len(places.holders[model.id]) > model.replicas or _rolls(places, model):
            homes = _homes(places, model)
            unloads += [Move(h.server.address, model.id) for h in rolling.excess(model, homes)]
    for move in unloads:
        places.take(move.address, move.model)
    # As it is before anything is added.
    homes_of = {m.id: _homes(places, m) for m in models if _rolls(places, m)}
    loads = _load(places, [m for m in models if _missing(places, m)])
    unplaced = {m.id: reasons.why_unplaced(m, places) for m in models if _missing(places, m)}
    unsettled = {*unplaced, *homes_of}
    loading = Counter(m.model for m in loads)
    surges: list[Move] = []
    updates: list[Move] = []
    for model in models:
        if model.id in homes_of:
            homes = homes_of[model.id]
            new = _surge(places, model, homes)
            planned = len(new) + loading[model.id]
            old = rolling.updates(model, homes, lambda a: places.free(a) >= 0, planned)
            surges += new
            updates += [Move(h.server.address, model.id) for h in old]
            stale = sum(h.held.stale for h in homes)
            if stale and rolling.is_paused(model, homes) and not new and model.id not in unplaced:
                unplaced[model.id] = reasons.why_not_updated(model, stale)
    return Plan(
        tuple(unloads),
        tuple(loads),
        tuple(surges),
        tuple(updates),
        unplaced,
        frozenset(unsettled),
    )


def _missing(places: Places, model: Model) -> bool:
    return len(places.holders[model.id]) < model.replicas


def _rolls(places: Places, model: Model) -> bool:
    held = (places.servers[a].held[model.id] for a in places.holders[model.id])
    return any(h.stale or h.unsure for h in held)


def _homes(places: Places, model: Model) -> list[Home]:
    return [
        Home(places.servers[a], places.servers[a].held[model.id], places.number_held(a))
        for a in sorted(places.holders[model.id])
    ]


def _load(places: Places, missing: Sequence[Model]) -> list[Move]:
    loads = []
    choices = {m.id: places.choices(m) for m in missing}
    while missing:
        missing = sorted(
            missing,
            key=lambda m: (
                len(places.holders[m.id]),
                choices[m.id],
                m.need.known,
                -m.need.largest,
                m.id,
            ),
        )
        placed = []
        for model in missing:
            address = None if model.on_hold else places.best(model)
            if address is not None:
                places.put(address, model)
                loads.append(Move(address, model.id))
                placed.append(model)
        missing = [m for m in placed if _missing(places, m)]
    return loads


def _surge(places: Places, model: Model, homes: list[Home]) -> list[Move]:
    moves: list[Move] = []
    while len(moves) < rolling.surges(model, homes) and not model.on_hold:
        address = places.best(model)
        if address is None:
            break
        places.put(address, model)
        moves.append(Move(address, model.id))
    return moves
