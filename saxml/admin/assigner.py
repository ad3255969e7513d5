"""Which server shall load or unload which model: a pure function over plain data.

    plan(servers, models).loads == (Move("10.0.0.1:10001", "/sax/test/lm"),)

The same input gives the same plan, and what is in place stays. Replicas spread over idle servers
first; a server takes a second model only when no idle one is left, and never more than
MAX_MODELS_PER_SERVER, because nothing here knows how much memory a model needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_MODELS_PER_SERVER = 4


@dataclass(frozen=True, slots=True)
class Server:
    """A joined model server."""

    address: str
    # Model paths that it offers to load.
    paths: frozenset[str]
    # Models that it was told to load and not told to unload.
    held: tuple[str, ...] = ()
    # Those of them that are ready.
    loaded: frozenset[str] = frozenset()
    # Model -> why it may not be placed here now.
    barred: Mapping[str, str] = field(default_factory=dict)
    # Model -> how often in a row it could not be loaded here; other servers are tried first.
    failures: Mapping[str, int] = field(default_factory=dict)
    chip: int = 0
    topology: int = 0
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A published model."""

    id: str
    path: str
    replicas: int
    # Why it may not be placed anywhere now, or "".
    on_hold: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """A model to load onto, or to unload from, the server at `address`."""

    address: str
    model: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, unloads first, and why some replicas have no place."""

    unloads: tuple[Move, ...]
    loads: tuple[Move, ...]
    unplaced: Mapping[str, str]


def plan(servers: Sequence[Server], models: Sequence[Model]) -> Plan:
    """The moves that bring `servers` to what `models`, in order of publication, ask for."""
    servers = sorted(servers, key=lambda s: s.address)
    held = {s.address: list(s.held) for s in servers}
    unloads = _unloads(servers, models, held)
    for move in unloads:
        held[move.address].remove(move.model)
    replicas = {m.id: sum(m.id in ids for ids in held.values()) for m in models}
    loads: list[Move] = []
    shared = MAX_MODELS_PER_SERVER - 1
    for most, after_failure in ((0, False), (shared, False), (shared, True)):
        while placed := _one_round(servers, models, held, replicas, most, after_failure):
            loads += placed
    unplaced = {
        m.id: _why_unplaced(m, replicas[m.id], servers, held)
        for m in models
        if replicas[m.id] < m.replicas
    }
    return Plan(tuple(unloads), tuple(loads), unplaced)


def _unloads(
    servers: Sequence[Server], models: Sequence[Model], held: Mapping[str, list[str]]
) -> list[Move]:
    published = {m.id for m in models}
    moves = [Move(s.address, i) for s in servers for i in s.held if i not in published]
    for model in models:
        homes = sorted(
            (s for s in servers if model.id in s.held),
            key=lambda s: (model.id not in s.loaded, len(held[s.address]), s.address),
        )
        moves += [Move(s.address, model.id) for s in homes[model.replicas :]]
    return moves


def _one_round(
    servers: Sequence[Server],
    models: Sequence[Model],
    held: dict[str, list[str]],
    replicas: dict[str, int],
    most: int,
    after_failure: bool,
) -> list[Move]:
    """Gives each model at most one more replica, on a server that holds at most `most` models."""
    moves = []
    for model in sorted(models, key=lambda m: replicas[m.id]):
        if replicas[model.id] >= model.replicas or model.on_hold:
            continue
        candidates = [
            s
            for s in servers
            if model.path in s.paths
            and len(held[s.address]) <= most
            and model.id not in held[s.address]
            and model.id not in s.barred
            and (after_failure or not s.failures.get(model.id))
        ]
        if candidates:
            best = min(candidates, key=lambda s: _rank(s, model, held))
            held[best.address].append(model.id)
            replicas[model.id] += 1
            moves.append(Move(best.address, model.id))
    return moves


def _rank(server: Server, model: Model, held: Mapping[str, list[str]]) -> tuple[int, int, str]:
    return server.failures.get(model.id, 0), len(held[server.address]), server.address


def _why_unplaced(
    model: Model, placed: int, servers: Sequence[Server], held: Mapping[str, list[str]]
) -> str:
    prefix = f"{placed} of {model.replicas} replicas placed: "
    if model.on_hold:
        return prefix + model.on_hold
    if not servers:
        return prefix + "no model server has joined this cell"
    offering = [s for s in servers if model.path in s.paths]
    if not offering:
        offered = sorted({path for s in servers for path in s.paths})
        shown = ", ".join(offered[:5]) + (f", and {len(offered) - 5} more" if offered[5:] else "")
        return (
            f"{prefix}none of the {len(servers)} joined model servers offers {model.path};"
            f" they offer {shown or 'nothing'}"
        )
    reasons = [s.barred[model.id] for s in offering if model.id in s.barred][:3]
    full = sum(
        len(held[s.address]) >= MAX_MODELS_PER_SERVER
        for s in offering
        if model.id not in held[s.address] and model.id not in s.barred
    )
    if full:
        reasons.append(f"{full} servers hold {MAX_MODELS_PER_SERVER} models, which is the most")
    if not reasons:
        reasons.append(f"all {len(offering)} servers that offer it have it")
    return prefix + "; ".join(reasons)
