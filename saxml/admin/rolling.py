"""How the replicas of one model come to their number, and to its checkpoint, with somebody serving.

A new checkpoint is loaded on another server where there is room (a surge), and what it replaces
goes when it is ready. Where there is none, replicas are updated where they are, a few at a time and
never the last one that serves. A checkpoint that has failed somewhere is not given to replicas that
serve until it has been loaded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from saxml.admin.fleet import Held, Model, Server


@dataclass(frozen=True, slots=True)
class Home:
    """A server that holds the model."""

    server: Server
    held: Held
    # How many models the server holds.
    crowd: int


def at_once(replicas: int) -> int:
    """How many replicas may be on their way to a new checkpoint at a time."""
    return max(1, replicas // 4)


def excess(model: Model, homes: Iterable[Home]) -> list[Home]:
    """The replicas that are not needed, or not any more."""
    ordered = _by_worth(homes)
    fresh = [h for h in ordered if not h.held.stale]
    stale = [h for h in ordered if h.held.stale]
    if not stale:
        return fresh[model.replicas :]
    # A replica goes when the one that takes its place serves.
    keep = max(0, model.replicas - sum(h.held.ready for h in fresh))
    return stale[keep:] + fresh[model.replicas :]


def in_flight(homes: Iterable[Home]) -> int:
    """How many replicas are on their way."""
    return sum(h.held.updating or not (h.held.ready or h.held.stale or _idle(h)) for h in homes)


def surges(model: Model, homes: list[Home]) -> int:
    """How many replicas more may be loaded from the new checkpoint now."""
    stale = sum(h.held.stale for h in homes)
    fresh = len(homes) - stale
    if not stale or len(homes) < model.replicas:
        return 0
    room = at_once(model.replicas) - in_flight(homes)
    return max(0, min(room, stale, model.replicas - fresh))


def updates(
    model: Model, homes: list[Home], room: Callable[[str], bool], planned: int
) -> list[Home]:
    """The replicas that are to be updated where they are now.

    room: whether the server at an address has the memory. planned: replicas that are to be loaded.
    """
    left = at_once(model.replicas) - in_flight(homes) - planned
    ready = sum(h.held.ready for h in homes)
    paused = is_paused(model, homes)
    chosen = []
    candidates = [
        h
        for h in homes
        if (h.held.stale or h.held.unsure)
        and not h.held.updating
        and not h.server.closed
        and (h.held.unsure or (room(h.server.address) and not model.on_hold))
    ]
    for home in sorted(candidates, key=lambda h: (h.held.ready, h.server.address)):
        if left <= 0:
            break
        if home.held.ready:
            alone = ready <= 1 and len(homes) > 1
            if alone or (home.held.stale and paused):
                continue
            ready -= 1
        left -= 1
        chosen.append(home)
    return chosen


def is_paused(model: Model, homes: Iterable[Home]) -> bool:
    """Whether nobody knows if the new checkpoint can be loaded, because it has only failed yet."""
    return model.failing and not any(
        h.held.ready and not h.held.stale and not h.held.unsure for h in homes
    )


def _idle(home: Home) -> bool:
    # Its server does not answer, or it was found while it loaded: nothing to wait for.
    return bool(home.server.closed) or home.held.unsure


def _by_worth(homes: Iterable[Home]) -> list[Home]:
    """The most valuable first: ready, on hosts of their own, on servers with little else."""
    by_load = sorted(homes, key=lambda h: (not h.held.ready, h.crowd, h.server.address))
    seen: dict[str, int] = {}
    nth: dict[str, int] = {}
    for home in by_load:
        host = home.server.host
        nth[home.server.address] = seen[host] = seen.get(host, 0) + 1
    return sorted(
        by_load,
        key=lambda h: (
            not h.held.ready,
            nth[h.server.address],
            h.crowd,
            h.server.address,
        ),
    )
