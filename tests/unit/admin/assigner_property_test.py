"""Rules that every plan keeps, on random cells."""

import random

from hypothesis import given
from hypothesis import strategies as st

from saxml.admin import memory
from saxml.admin.assigner import MAX_MODELS_PER_SERVER, Held, Model, Plan, Server, decide, plan
from saxml.admin.fleet import too_small
from saxml.admin.memory import GIB, Need
from saxml.admin.places import Places
from saxml.proto import admin_pb2

_NAMES = "abcdef"
_TAGS = st.frozensets(st.sampled_from(["fast", "big"]))
_needs = st.one_of(
    st.builds(lambda n: Need(total=n * GIB), st.integers(0, 40)),
    st.builds(
        lambda a, b: Need.of_overrides({"ram": str(a), "ram4": str(b)}),
        st.integers(1, 20),
        st.integers(1, 20),
    ),
    st.just(Need()),
)
_held = st.builds(Held, ready=st.booleans())
_servers = st.lists(
    st.builds(
        Server,
        st.just(""),
        paths=st.frozensets(st.sampled_from(["p.Lm", "p.Other"])),
        held=st.dictionaries(st.sampled_from(_NAMES), _held, max_size=3),
        closed=st.sampled_from(["", "", "", "is draining"]),
        chip=st.sampled_from(
            [admin_pb2.ModelServer.CHIP_TYPE_TPU_V5E, admin_pb2.ModelServer.CHIP_TYPE_TPU_V6E]
        ),
        topology=st.sampled_from(
            [
                admin_pb2.ModelServer.CHIP_TOPOLOGY_1X1,
                admin_pb2.ModelServer.CHIP_TOPOLOGY_2X2,
            ]
        ),
        tags=_TAGS,
    ),
    max_size=6,
).map(lambda servers: [_at(f"10.0.0.{i % 3}:{i}", s) for i, s in enumerate(servers)])
_model = st.builds(
    Model,
    id=st.sampled_from(_NAMES),
    path=st.sampled_from(["p.Lm", "p.Other"]),
    replicas=st.integers(0, 4),
    need=_needs,
    tags=_TAGS,
    barred=st.dictionaries(st.just("10.0.0.0:0"), st.just("barred"), max_size=1),
    failures=st.dictionaries(st.just("10.0.0.1:1"), st.just(1), max_size=1),
)
_models = st.lists(_model, max_size=6, unique_by=lambda m: m.id)


def _at(address: str, s: Server) -> Server:
    return Server(
        address, s.paths, s.held, s.leaving, s.stuck, s.closed, s.chip, s.topology, s.tags
    )


def _after(servers: list[Server], p: Plan) -> list[Server]:
    held = {s.address: dict(s.held) for s in servers}
    for move in p.unloads:
        del held[move.address][move.model]
    for move in (*p.loads, *p.surges):
        assert move.model not in held[move.address]
        held[move.address][move.model] = Held()
    for move in p.updates:
        held[move.address][move.model] = Held()
    return [
        Server(
            s.address,
            s.paths,
            held[s.address],
            s.leaving,
            s.stuck,
            s.closed,
            s.chip,
            s.topology,
            s.tags,
        )
        for s in servers
    ]


def _used(server: Server, models: dict[str, Model]) -> float:
    """Bytes a chip; a model of unknown size fills the server."""
    chips, used = memory.chips_in(server.topology), 0
    for name in server.held:
        need = models[name].need.per_chip(chips)
        used += memory.capacity(server.chip) if need is None else need
    return used


@given(_servers, _models)
def test_a_plan_keeps_the_rules(servers: list[Server], models: list[Model]) -> None:
    p = plan(servers, models)
    by_id = {m.id: m for m in models}
    by_address = {s.address: s for s in servers}
    after = {s.address: s for s in _after(servers, p)}
    for move in p.loads:
        server, model = by_address[move.address], by_id[move.model]
        assert model.path in server.paths
        assert model.tags <= server.tags
        assert not too_small(server, model)
        assert not server.closed
        assert move.address not in model.barred
    for address in {m.address for m in p.loads}:
        assert len(after[address].held) <= MAX_MODELS_PER_SERVER
        assert _used(after[address], by_id) <= memory.capacity(after[address].chip)
    for server in after.values():
        assert set(server.held) <= set(by_id)
    for model in models:
        count = sum(model.id in s.held for s in after.values())
        assert count <= model.replicas
        assert (count < model.replicas) == (model.id in p.unplaced)


@given(_servers, _models)
def test_a_plan_moves_no_more_than_it_must(servers: list[Server], models: list[Model]) -> None:
    p = plan(servers, models)
    for model in models:
        before = sum(model.id in s.held for s in servers)
        unloads = sum(m.model == model.id for m in p.unloads)
        loads = sum(m.model == model.id for m in p.loads)
        assert unloads == max(0, before - model.replicas)
        assert loads <= max(0, model.replicas - before)
    assert (p.surges, p.updates) == ((), ())


@given(_servers, _models)
def test_after_a_plan_nothing_is_left_to_plan(servers: list[Server], models: list[Model]) -> None:
    p = plan(servers, models)
    again = plan(_after(servers, p), models)
    assert (again.loads, again.unloads, again.unplaced) == ((), (), p.unplaced)


@given(_servers, _models, st.randoms())
def test_the_order_of_what_is_given_does_not_matter(
    servers: list[Server], models: list[Model], shuffler: random.Random
) -> None:
    p = plan(servers, models)
    mixed_servers, mixed_models = list(servers), list(models)
    shuffler.shuffle(mixed_servers)
    shuffler.shuffle(mixed_models)
    assert plan(mixed_servers, mixed_models) == p


@given(_servers, _models, st.lists(st.one_of(_model, st.sampled_from(_NAMES)), max_size=4))
def test_a_look_at_what_has_changed_finds_the_same(
    servers: list[Server], models: list[Model], changes: list[Model | str]
) -> None:
    """A changed model is published anew or changed, a changed name is unpublished."""
    by_id = {m.id: m for m in models}
    by_address = {s.address: s for s in servers}
    places = Places(servers, by_id)
    p = decide(places, servers, models)
    for change in changes:
        for server in _after(list(by_address.values()), p):
            if server != by_address[server.address]:
                by_address[server.address] = server
                places.refresh(server)
        places.check_integrity()
        if isinstance(change, str):
            by_id.pop(change, None)
            places.drop_model(change)
            name = change
        else:
            name = change.id
            by_id[name] = change
            places.set_model(change)
        holding = [s for _, s in sorted(by_address.items()) if name in s.held]
        for server in holding:
            places.refresh(server)
        places.check_integrity()
        looked_at = [by_id[i] for i in {name, *p.unsettled} & by_id.keys()]
        p = decide(places, holding, looked_at)
        assert p == plan(list(by_address.values()), list(by_id.values()))


@given(_servers, _models)
def test_servers_with_paths_of_their_own_are_no_others(
    servers: list[Server], models: list[Model]
) -> None:
    own = [
        Server(
            s.address,
            s.paths | {f"p.Own{i}"},
            s.held,
            s.leaving,
            s.stuck,
            s.closed,
            s.chip,
            s.topology,
            s.tags,
        )
        for i, s in enumerate(servers)
    ]
    p, q = plan(servers, models), plan(own, models)
    assert (p.loads, p.unloads) == (q.loads, q.unloads)
