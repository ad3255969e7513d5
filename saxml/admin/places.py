"""How full each server is, and the best server for one more replica.

Places last from one decision to the next: refresh() takes over what a server holds by now,
set_model() and drop_model() what is published, so that a decision about one model looks at that
model alone.
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from saxml.admin import memory
from saxml.admin.fleet import Model, Server, too_small

# Memory says how many models fit; this bounds what it does not say, such as caches and threads.
MAX_MODELS_PER_SERVER = 16

# Emptiest first: models held or leaving, minus the free bytes a chip, address.
_Rank = tuple[int, int, str]


@dataclass(slots=True)
class _Pool:
    """The servers of one chip and topology among those that offer a path.

    Paths that are offered by the same servers share their pools, however different the lists of
    paths are otherwise.
    """

    example: Server
    chips: int
    addresses: list[str] = field(default_factory=list)
    open: list[_Rank] = field(default_factory=list)
    # How many of them hold nothing.
    empty: int = 0
    # None has more free bytes than this (None: to be looked up).
    most_free: int | None = None
    # How many servers have these tags, as far as somebody has asked.
    tagged: dict[frozenset[str], int] = field(default_factory=dict)

    def add(self, filling: "_Filling") -> None:
        """Lists a server as open."""
        bisect.insort(self.open, filling.rank)
        self.empty += not filling.held
        if self.most_free is not None:
            self.most_free = max(self.most_free, -filling.rank[1])

    def remove(self, filling: "_Filling") -> None:
        """Lists it no more."""
        del self.open[bisect.bisect_left(self.open, filling.rank)]
        self.empty -= not filling.held


@dataclass(slots=True)
class _Filling:
    """A server and what it holds."""

    server: Server
    chips: int
    # Bytes a chip; models that nobody knows the need of are counted, each takes the whole server.
    free: int
    whole: int = 0
    held: set[str] = field(default_factory=set)
    rank: _Rank = (0, 0, "")
    pools: list[_Pool] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Bytes a chip for another model."""
        return min(self.free, 0) if self.whole else self.free

    def rate(self) -> None:
        """Brings `rank` up to date."""
        count = len(self.held) + len(self.server.leaving)
        self.rank = (count, -self.left, self.server.address)


class Places:
    """Free memory, and who holds what, as of the moves planned so far."""

    def __init__(self, servers: Iterable[Server], models: Mapping[str, Model]) -> None:
        self.servers: dict[str, Server] = {}
        self.holders: dict[str, set[str]] = {m: set() for m in models}
        # Servers that take nothing, with the reason.
        self.closed: dict[str, Server] = {}
        self._models = dict(models)
        self._fillings: dict[str, _Filling] = {}
        # Addresses by paths, chip and topology, and which of these offer a path.
        kinds: dict[tuple[frozenset[str], int, int], int] = {}
        self._kinds: list[list[str]] = []
        self._kinds_by_path: dict[str, list[int]] = {}
        self._pools_by_path: dict[str, list[_Pool]] = {}
        self._pools_by_kinds: dict[tuple[int, ...], list[_Pool]] = {}
        self._fitting: dict[str, list[_Pool]] = {}
        self._emptiest: dict[tuple[int, ...], list[_Rank]] = {}
        for server in servers:
            key = (server.paths, server.chip, server.topology)
            kind = kinds.setdefault(key, len(kinds))
            if kind == len(self._kinds):
                self._kinds.append([])
                for path in server.paths:
                    self._kinds_by_path.setdefault(path, []).append(kind)
            self._kinds[kind].append(server.address)
            self._fill(server)
        self._hosts = {a: s.host for a, s in self.servers.items()}
        self._num_hosts = len(set(self._hosts.values()))

    def refresh(self, server: Server) -> None:
        """Takes over what a known server holds; its paths, chip and topology are as they were."""
        old = self._fillings[server.address]
        for model in old.held:
            if model in self.holders:
                self.holders[model].discard(server.address)
        new = self._fill(server)
        new.pools = old.pools
        for pool in old.pools:
            pool.tagged.clear()
            if not old.server.closed:
                pool.remove(old)
            if not server.closed:
                pool.add(new)
        self._emptiest.clear()

    def set_model(self, model: Model) -> None:
        """Takes over a published model; the servers that hold it must be refreshed if its need has
        changed."""
        self._models[model.id] = model
        self.holders.setdefault(model.id, set())
        self._fitting.pop(model.id, None)

    def drop_model(self, model: str) -> None:
        """Forgets a model that is not published; the servers that hold it must be refreshed."""
        self._models.pop(model, None)
        self.holders.pop(model, None)
        self._fitting.pop(model, None)

    @property
    def models(self) -> Mapping[str, Model]:
        """The published models as they were given last."""
        return self._models

    @property
    def paths(self) -> Iterable[str]:
        """All model paths that are offered."""
        return self._kinds_by_path.keys()

    def offering(self, path: str) -> list[Server]:
        """An example of each chip and topology among the servers that offer the path."""
        return [p.example for p in self._pools(path)]

    def number_offering(self, model: Model) -> int:
        """How many servers offer the model's path and have its tags."""
        return sum(self._number_with(p, model.tags) for p in self._pools(model.path))

    def choices(self, model: Model) -> int:
        """How many servers could take the model if they held nothing else."""
        return sum(self._number_with(p, model.tags) for p in self._fitting_pools(model))

    def emptiest(self, model: Model, most: int) -> Iterator[Server]:
        """Open servers that could take the model but for what they hold, those with most free
        memory first."""
        pools = self._fitting_pools(model)
        key = tuple(id(p) for p in pools)
        ranks = self._emptiest.get(key)
        if ranks is None:
            ranks = self._emptiest[key] = sorted(
                (r for p in pools for r in p.open), key=lambda r: (r[1], r)
            )
        servers = (self.servers[r[2]] for r in ranks)
        return itertools.islice((s for s in servers if model.tags <= s.tags), most)

    def free(self, address: str) -> int:
        """Bytes a chip that are neither used nor planned for; below 0 on a crowded server."""
        return self._fillings[address].left

    def number_held(self, address: str) -> int:
        """How many models the server holds."""
        return len(self._fillings[address].held)

    def best(self, model: Model) -> str | None:
        """The server that shall take one more replica of the model, or None."""
        on_host: dict[str, int] = {}
        for address in self.holders[model.id]:
            host = self._hosts[address]
            on_host[host] = on_host.get(host, 0) + 1
        # No server can be on a host with fewer replicas than this.
        fewest = 0 if len(on_host) < self._num_hosts else min(on_host.values(), default=0)
        best: tuple[int, int, _Rank] | None = None
        for pool in self._fitting_pools(model):
            need = model.need.per_chip(pool.chips) if model.need.known else None
            if not self._any_room(pool, need):
                continue
            fits = False
            for rank in pool.open:
                held, minus_free, address = rank
                if need is None and self._fillings[address].held:
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
                pool.most_free = None
        return best[2][2] if best is not None else None

    def put(self, address: str, model: Model) -> None:
        """The server is to load the model."""
        self._change(address, model.id, 1)

    def take(self, address: str, model: str) -> None:
        """The server is to unload the model, before it loads anything else."""
        self._change(address, model, -1)

    def check_integrity(self) -> None:
        """Asserts that all is as if it had been built from these servers and models anew, which
        holds when no moves were planned since a server was refreshed."""
        fresh = Places(self.servers.values(), self._models)
        assert fresh.holders == self.holders, (fresh.holders, self.holders)
        assert fresh.closed == self.closed
        for address, filling in fresh._fillings.items():
            mine = self._fillings[address]
            assert (mine.rank, mine.held) == (filling.rank, filling.held), (mine, filling)
        for path in self._pools_by_path:
            for pool, other in zip(self._pools(path), fresh._pools(path), strict=True):
                assert (pool.open, pool.empty) == (other.open, other.empty), (pool, other)

    def _fill(self, server: Server) -> _Filling:
        address, chips = server.address, memory.chips_in(server.topology)
        self.servers[address] = server
        if server.closed:
            self.closed[address] = server
        else:
            self.closed.pop(address, None)
        filling = _Filling(server, chips, memory.capacity(server.chip))
        for model in (*server.held, *server.stuck):
            if model not in filling.held:
                filling.held.add(model)
                self._count(filling, model, 1)
                if model in server.held and model in self.holders:
                    self.holders[model].add(address)
        filling.rate()
        self._fillings[address] = filling
        return filling

    def _pools(self, path: str) -> list[_Pool]:
        pools = self._pools_by_path.get(path)
        if pools is None:
            kinds = tuple(self._kinds_by_path.get(path, ()))
            pools = self._pools_by_kinds.get(kinds)
            if pools is None:
                pools = self._pools_by_kinds[kinds] = self._new_pools(kinds)
            self._pools_by_path[path] = pools
        return pools

    def _new_pools(self, kinds: tuple[int, ...]) -> list[_Pool]:
        by_shape: dict[tuple[int, int], _Pool] = {}
        for address in (a for k in kinds for a in self._kinds[k]):
            filling = self._fillings[address]
            server = filling.server
            shape = (server.chip, server.topology)
            pool = by_shape.get(shape)
            if pool is None:
                pool = by_shape[shape] = _Pool(server, filling.chips)
            elif server.address < pool.example.address:
                pool.example = server  # reasons name the same one, whatever the order
            pool.addresses.append(address)
            filling.pools.append(pool)
            if not server.closed:
                pool.open.append(filling.rank)
                pool.empty += not filling.held
        for pool in by_shape.values():
            pool.open.sort()
        return list(by_shape.values())

    def _number_with(self, pool: _Pool, tags: frozenset[str]) -> int:
        if not tags:
            return len(pool.addresses)
        count = pool.tagged.get(tags)
        if count is None:
            count = pool.tagged[tags] = sum(tags <= self.servers[a].tags for a in pool.addresses)
        return count

    def _may_hold(self, address: str, model: Model) -> bool:
        server = self.servers[address]
        return (
            model.id not in self._fillings[address].held
            and model.tags <= server.tags
            and model.id not in server.leaving
            and address not in model.barred
        )

    def _any_room(self, pool: _Pool, need: int | None) -> bool:
        if need is None:
            return pool.empty > 0
        if pool.most_free is None:
            pool.most_free = max((-minus_free for _, minus_free, _ in pool.open), default=-1)
        return pool.most_free >= need

    def _fitting_pools(self, model: Model) -> list[_Pool]:
        fitting = self._fitting.get(model.id)
        if fitting is None:
            fitting = [p for p in self._pools(model.path) if not too_small(p.example, model)]
            self._fitting[model.id] = fitting
        return fitting

    def _change(self, address: str, model: str, sign: int) -> None:
        filling = self._fillings[address]
        is_open = not filling.server.closed
        if is_open:
            for pool in filling.pools:
                pool.remove(filling)
            self._emptiest.clear()
        holders = self.holders.get(model)
        if sign > 0:
            filling.held.add(model)
            self.holders[model].add(address)
        else:
            filling.held.discard(model)
            if holders is not None:
                holders.discard(address)
        self._count(filling, model, sign)
        filling.rate()
        if is_open:
            for pool in filling.pools:
                pool.add(filling)

    def _count(self, filling: _Filling, model: str, sign: int) -> None:
        known = self._models.get(model)
        # Unpublished, and could not be unloaded: nobody knows what it takes.
        need = known.need.per_chip(filling.chips) if known and known.need.known else None
        if need is None:
            filling.whole += sign
        else:
            filling.free -= sign * need
