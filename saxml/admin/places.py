"""How full each server is while a plan is made, and the best server for one more replica."""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence

from saxml.admin import memory
from saxml.admin.fleet import Model, Server, too_small

# Memory says how many models fit; this bounds what it does not say, such as caches and threads.
MAX_MODELS_PER_SERVER = 16

# Emptiest first: models held or leaving, minus the free bytes a chip, address.
_Rank = tuple[int, int, str]


class _Kind:
    """Servers that differ only in tags and in what they hold."""

    def __init__(self, example: Server) -> None:
        self.example = example
        self.chips = memory.chips_in(example.topology)
        self.capacity = memory.capacity(example.chip)
        self.open: list[_Rank] = []
        self.servers: list[Server] = []
        # Open servers that hold nothing; no server has more free bytes than this (None: to be
        # looked up).
        self.empty = 0
        self.most_free: int | None = None


class Places:
    """Free memory, and who holds what, as of the moves planned so far."""

    def __init__(self, servers: Sequence[Server], models: Mapping[str, Model]) -> None:
        self.servers = {s.address: s for s in servers}
        self.holders: dict[str, set[str]] = {m: set() for m in models}
        self._models = models
        self._kinds: dict[object, _Kind] = {}
        self._by_path: dict[str, list[_Kind]] = {}
        self._kind_of: dict[str, _Kind] = {}
        self._held: dict[str, set[str]] = {}
        # Models that nobody knows the need of take the whole server.
        self._whole: dict[str, int] = {}
        self._free: dict[str, int] = {}
        self._hosts = {a: s.host for a, s in self.servers.items()}
        self._num_hosts = len(set(self._hosts.values()))
        self._fitting: dict[str, list[_Kind]] = {}
        self._emptiest: dict[tuple[int, ...], list[_Rank]] = {}
        # Servers that take nothing, with the reason.
        self.closed = [s for s in servers if s.closed]
        for server in servers:
            self._add(server)
        for kind in self._kinds.values():
            kind.open.sort()

    def _add(self, server: Server) -> None:
        key = (server.paths, server.chip, server.topology)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(server)
            for path in server.paths:
                self._by_path.setdefault(path, []).append(kind)
        kind.servers.append(server)
        address = server.address
        self._kind_of[address] = kind
        self._held[address] = set()
        self._whole[address] = 0
        self._free[address] = kind.capacity
        for model in (*server.held, *server.stuck):
            if model in self._held[address]:
                continue
            self._held[address].add(model)
            self._count(address, model, 1)
            if model in server.held and model in self.holders:
                self.holders[model].add(address)
        if not server.closed:
            kind.open.append(self._rank(address))
            kind.empty += not self._held[address]

    def offering(self, path: str) -> list[Server]:
        """An example of each kind of servers that offers the path."""
        return [k.example for k in self._by_path.get(path, ())]

    def number_offering(self, model: Model) -> int:
        """How many servers offer the model's path and have its tags."""
        return sum(_number_with(k, model.tags) for k in self._by_path.get(model.path, ()))

    def choices(self, model: Model) -> int:
        """How many servers could take the model if they held nothing else."""
        return sum(_number_with(k, model.tags) for k in self._fitting_kinds(model))

    def emptiest(self, model: Model, most: int) -> Iterator[Server]:
        """Open servers that could take the model but for what they hold, those with most free
        memory first."""
        kinds = self._fitting_kinds(model)
        key = tuple(id(k) for k in kinds)
        ranks = self._emptiest.get(key)
        if ranks is None:
            ranks = self._emptiest[key] = sorted(
                (r for k in kinds for r in k.open), key=lambda r: (r[1], r)
            )
        servers = (self.servers[r[2]] for r in ranks)
        return itertools.islice((s for s in servers if model.tags <= s.tags), most)

    def free(self, address: str) -> int:
        """Bytes a chip that are neither used nor planned for; below 0 on a crowded server."""
        free = self._free[address]
        return min(free, 0) if self._whole[address] else free

    def number_held(self, address: str) -> int:
        """How many models the server holds."""
        return len(self._held[address])

    def best(self, model: Model) -> str | None:
        """The server that shall take one more replica of the model, or None."""
        on_host: dict[str, int] = {}
        for address in self.holders[model.id]:
            host = self._hosts[address]
            on_host[host] = on_host.get(host, 0) + 1
        # No server can be on a host with fewer replicas than this.
        fewest = 0 if len(on_host) < self._num_hosts else min(on_host.values(), default=0)
        best: tuple[int, int, _Rank] | None = None
        for kind in self._fitting_kinds(model):
            need = model.need.per_chip(kind.chips) if model.need.known else None
            if not self._any_room(kind, need):
                continue
            fits = False
            for rank in kind.open:
                held, minus_free, address = rank
                if need is None and self._held[address]:
                    # Ranks count what is leaving as well, so a later one may be empty.
                    continue
                if best is not None and best < (0, fewest, rank):
                    break
                if need is not None and need > -minus_free:
                    continue
                fits = True
                if held >= MAX_MODELS_PER_SERVER or not self._may_hold(address, model):
                    continue
                failures = model.failures.get(address, 0)
                found = (failures, on_host.get(self._hosts[address], 0), rank)
                if best is None or found < best:
                    best = found
            if not fits:
                kind.most_free = None
        return best[2][2] if best is not None else None

    def put(self, address: str, model: Model) -> None:
        """The server is to load the model."""
        self._change(address, model.id, 1)

    def take(self, address: str, model: str) -> None:
        """The server is to unload the model, before it loads anything else."""
        self._change(address, model, -1)

    def _may_hold(self, address: str, model: Model) -> bool:
        server = self.servers[address]
        return (
            model.id not in self._held[address]
            and model.tags <= server.tags
            and model.id not in server.leaving
            and address not in model.barred
        )

    def _any_room(self, kind: _Kind, need: int | None) -> bool:
        if need is None:
            return kind.empty > 0
        if kind.most_free is None:
            kind.most_free = max((-minus_free for _, minus_free, _ in kind.open), default=-1)
        return kind.most_free >= need

    def _fitting_kinds(self, model: Model) -> list[_Kind]:
        fitting = self._fitting.get(model.id)
        if fitting is None:
            kinds = self._by_path.get(model.path, ())
            example = {(k.example.chip, k.example.topology): k.example for k in kinds}
            fits = {shape: not too_small(s, model) for shape, s in example.items()}
            fitting = [k for k in kinds if fits[k.example.chip, k.example.topology]]
            self._fitting[model.id] = fitting
        return fitting

    def _rank(self, address: str) -> _Rank:
        count = len(self._held[address]) + len(self.servers[address].leaving)
        return count, -self.free(address), address

    def _change(self, address: str, model: str, sign: int) -> None:
        kind = self._kind_of[address]
        old, was_empty = self._rank(address), not self._held[address]
        if sign > 0:
            self._held[address].add(model)
            self.holders[model].add(address)
        else:
            self._held[address].discard(model)
            if model in self.holders:
                self.holders[model].discard(address)
        self._count(address, model, sign)
        if not self.servers[address].closed:
            del kind.open[bisect.bisect_left(kind.open, old)]
            bisect.insort(kind.open, self._rank(address))
            self._emptiest.clear()
            kind.empty += (not self._held[address]) - was_empty
            if sign < 0:
                kind.most_free = None

    def _count(self, address: str, model: str, sign: int) -> None:
        known = self._models.get(model)
        if known is None:
            # Unpublished, and could not be unloaded: nobody knows what it takes.
            self._whole[address] += sign
            return
        need = known.need.per_chip(self._kind_of[address].chips) if known.need.known else None
        if need is None:
            self._whole[address] += sign
        else:
            self._free[address] -= sign * need


def _number_with(kind: _Kind, tags: frozenset[str]) -> int:
    return sum(tags <= s.tags for s in kind.servers) if tags else len(kind.servers)
