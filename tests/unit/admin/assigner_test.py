from hypothesis import given
from hypothesis import strategies as st

from saxml.admin.assigner import MAX_MODELS_PER_SERVER, Model, Move, Plan, Server, plan

PATHS = frozenset({"p.Lm", "p.Other"})


def _server(
    address: str,
    *held: str,
    loaded: bool = True,
    barred: dict[str, str] | None = None,
    paths: frozenset[str] = PATHS,
) -> Server:
    ready = frozenset(held) if loaded else frozenset[str]()
    return Server(address, paths, held, ready, barred or {})


def _model(name: str, replicas: int = 1, on_hold: str = "") -> Model:
    return Model(name, "p.Lm", replicas, on_hold)


def _loads(p: Plan) -> list[tuple[str, str]]:
    return [(m.address, m.model) for m in p.loads]


def _unloads(p: Plan) -> list[tuple[str, str]]:
    return [(m.address, m.model) for m in p.unloads]


def test_an_idle_server_is_given_the_model() -> None:
    assert plan([_server("s1")], [_model("m")]) == Plan((), (Move("s1", "m"),), {})


def test_what_is_in_place_stays() -> None:
    servers = [_server("s1", "a"), _server("s2", "b", loaded=False), _server("s3")]
    assert plan(servers, [_model("a"), _model("b")]) == Plan((), (), {})


def test_the_order_of_servers_does_not_matter() -> None:
    servers = [_server("s3"), _server("s1"), _server("s2", "a")]
    models = [_model("a", 2), _model("b")]
    assert plan(servers, models) == plan(servers[::-1], models)
    assert _loads(plan(servers, models)) == [("s1", "b"), ("s3", "a")]


def test_every_model_has_one_replica_before_any_has_two() -> None:
    p = plan([_server("s1"), _server("s2")], [_model("a", 2), _model("b", 2)])
    assert set(_loads(p)[:2]) == {("s1", "a"), ("s2", "b")}


def test_idle_servers_come_before_shared_ones() -> None:
    p = plan([_server("s1", "x"), _server("s2")], [_model("x"), _model("m", 1)])
    assert _loads(p) == [("s2", "m")]
    p = plan([_server("s1", "x")], [_model("x"), _model("m", 1)])
    assert _loads(p) == [("s1", "m")]


def test_a_server_holds_only_so_many_models() -> None:
    models = [_model(f"m{i}") for i in range(MAX_MODELS_PER_SERVER + 1)]
    p = plan([_server("s1")], models)
    assert len(p.loads) == MAX_MODELS_PER_SERVER
    reason = "0 of 1 replicas placed: 1 servers hold 4 models, which is the most"
    assert p.unplaced == {models[-1].id: reason}


def test_replicas_of_a_model_are_on_different_servers() -> None:
    p = plan([_server("s1"), _server("s2")], [_model("m", 3)])
    assert _loads(p) == [("s1", "m"), ("s2", "m")]
    assert p.unplaced == {"m": "2 of 3 replicas placed: all 2 servers that offer it have it"}


def test_unpublished_models_are_unloaded() -> None:
    p = plan([_server("s1", "gone", "m")], [_model("m")])
    assert _unloads(p) == [("s1", "gone")]


def test_the_place_of_an_unpublished_model_is_free_at_once() -> None:
    p = plan([_server("s1", "gone"), _server("s2", "x")], [_model("x"), _model("new")])
    assert (_unloads(p), _loads(p)) == ([("s1", "gone")], [("s1", "new")])


def test_excess_replicas_go_where_they_are_not_ready_first() -> None:
    servers = [_server("s1", "m", loaded=False), _server("s2", "m"), _server("s3", "m")]
    assert _unloads(plan(servers, [_model("m", 1)])) == [("s3", "m"), ("s1", "m")]
    assert _unloads(plan(servers, [_model("m", 0)])) == [("s2", "m"), ("s3", "m"), ("s1", "m")]


def test_only_servers_that_offer_the_path_are_used() -> None:
    servers = [_server("s1", paths=frozenset({"p.Other"})), _server("s2", paths=frozenset())]
    assert plan(servers, [_model("m")]) == Plan(
        (),
        (),
        {
            "m": "0 of 1 replicas placed: none of the 2 joined model servers offers p.Lm;"
            " they offer p.Other"
        },
    )


def test_an_empty_cell_is_told() -> None:
    p = plan([], [_model("m", 2)])
    assert p.unplaced == {"m": "0 of 2 replicas placed: no model server has joined this cell"}


def test_a_barred_server_is_passed_over_and_the_reason_shown() -> None:
    barred = _server("s1", barred={"m": "load failed on s1: no memory"})
    assert _loads(plan([barred, _server("s2")], [_model("m")])) == [("s2", "m")]
    p = plan([barred], [_model("m")])
    assert p == Plan((), (), {"m": "0 of 1 replicas placed: load failed on s1: no memory"})


def test_a_server_that_failed_is_tried_after_all_others() -> None:
    failed = Server("s1", PATHS, failures={"m": 1})
    busy = _server("s2", "x")
    assert _loads(plan([failed, busy], [_model("x"), _model("m")])) == [("s2", "m")]
    worse = Server("s0", PATHS, failures={"m": 2})
    assert _loads(plan([worse, failed], [_model("m")])) == [("s1", "m")]


def test_a_model_on_hold_is_not_placed_but_kept() -> None:
    p = plan([_server("s1", "m"), _server("s2")], [_model("m", 2, on_hold="waiting")])
    assert p == Plan((), (), {"m": "1 of 2 replicas placed: waiting"})


_models = st.sampled_from("abcdef")
_worlds = st.tuples(
    st.lists(
        st.builds(
            lambda held, loaded, paths, barred: (held, loaded, paths, barred),
            st.sets(_models, max_size=MAX_MODELS_PER_SERVER),
            st.sets(_models),
            st.sets(st.sampled_from(["p.Lm", "p.Other"])),
            st.sets(_models, max_size=2),
        ),
        max_size=6,
    ),
    st.dictionaries(_models, st.tuples(st.integers(0, 4), st.sampled_from(["p.Lm", "p.Other"]))),
)


@given(_worlds)
def test_a_plan_keeps_the_rules_and_leaves_nothing_to_plan(
    world: tuple[list[tuple[set[str], set[str], set[str], set[str]]], dict[str, tuple[int, str]]],
) -> None:
    servers = [
        Server(
            f"s{i}",
            frozenset(paths),
            tuple(sorted(held)),
            frozenset(loaded & held),
            dict.fromkeys(barred, "barred"),
        )
        for i, (held, loaded, paths, barred) in enumerate(world[0])
    ]
    models = [Model(name, path, n) for name, (n, path) in world[1].items()]
    p = plan(servers, models)
    after = {s.address: set(s.held) for s in servers}
    for move in p.unloads:
        after[move.address].remove(move.model)
    by_address = {s.address: s for s in servers}
    by_id = {m.id: m for m in models}
    for move in p.loads:
        assert move.model not in after[move.address]
        assert by_id[move.model].path in by_address[move.address].paths
        assert move.model not in by_address[move.address].barred
        assert len(after[move.address]) < MAX_MODELS_PER_SERVER
        after[move.address].add(move.model)
    for held in after.values():
        assert held <= set(by_id)
    for model in models:
        count = sum(model.id in held for held in after.values())
        assert count <= model.replicas
        assert (count < model.replicas) == (model.id in p.unplaced)
    settled = [
        Server(s.address, s.paths, tuple(after[s.address]), s.loaded, s.barred) for s in servers
    ]
    again = plan(settled, models)
    assert (again.loads, again.unloads) == ((), ())
