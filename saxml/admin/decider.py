"""Asks the assigner what to do: about the whole cell, or about what has changed in it alone.

A publish, or a replica that has been loaded, concerns one model; at a thousand servers looking at
it alone takes a hundredth of the time. What the assigner goes by (places.Places) is kept between
decisions for that: views of servers are renewed where something has changed.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from saxml.admin import assigner, fleet
from saxml.admin.changes import Changes
from saxml.admin.joined import JoinedServer
from saxml.admin.places import Places
from saxml.admin.published import Published


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and what was looked at for it."""

    plan: fleet.Plan
    servers: Collection[JoinedServer]
    models: Collection[Published]


class Decider:
    """Keeps what there is between two decisions; whole() comes first."""

    def __init__(self, view: Callable[[Published, float], fleet.Model]) -> None:
        """view: gives a model as the assigner takes it."""
        self._view = view
        self._places = Places((), {})
        self._unsettled: frozenset[str] = frozenset()

    def whole(
        self, servers: Mapping[str, JoinedServer], models: Mapping[str, Published], now: float
    ) -> Decision:
        """What to do in the whole cell."""
        seen = [s.view(models, now) for _, s in sorted(servers.items())]
        wanted = [self._view(p, now) for p in models.values()]
        self._places = Places(seen, {m.id: m for m in wanted})
        plan = assigner.decide(self._places, seen, wanted)
        self._unsettled = plan.unsettled
        return Decision(plan, servers.values(), models.values())

    def part(
        self,
        changes: Changes,
        servers: Mapping[str, JoinedServer],
        models: Mapping[str, Published],
        now: float,
    ) -> Decision:
        """What to do about these changes, and about what lacked something before them.

        Servers that have joined or left since the last whole() are changes of everything.
        """
        touched = set(changes.servers)
        for model in changes.models:
            touched.update(a for a, s in servers.items() if model in s.entries)
        for model in changes.models | self._unsettled:
            if model not in models:
                self._places.drop_model(model)
        chosen = sorted((changes.models | self._unsettled) & models.keys())
        wanted = [self._view(models[i], now) for i in chosen]
        for view in wanted:
            self._places.set_model(view)
        seen = [servers[a].view(models, now) for a in sorted(touched) if a in servers]
        for server in seen:
            self._places.refresh(server)
        plan = assigner.decide(self._places, seen, wanted)
        self._unsettled = plan.unsettled
        return Decision(plan, [servers[s.address] for s in seen], [models[i] for i in chosen])
