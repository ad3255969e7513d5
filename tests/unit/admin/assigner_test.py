from saxml.admin.assigner import (
    MAX_MODELS_PER_SERVER,
    Held,
    Model,
    Move,
    Plan,
    Server,
    decide,
    plan,
)
from saxml.admin.memory import GIB, Need
from saxml.admin.places import Places
from saxml.proto import admin_pb2

V5E = admin_pb2.ModelServer.CHIP_TYPE_TPU_V5E
CPU = admin_pb2.ModelServer.CHIP_TYPE_CPU
FOUR = admin_pb2.ModelServer.CHIP_TOPOLOGY_2X2
PATHS = frozenset({"p.Lm", "p.Other"})


def _server(
    address: str,
    *held: str,
    loaded: bool = True,
    paths: frozenset[str] = PATHS,
    chip: int = CPU,
    topology: int = admin_pb2.ModelServer.CHIP_TOPOLOGY_1,
    tags: frozenset[str] = frozenset(),
    leaving: frozenset[str] = frozenset(),
    stuck: frozenset[str] = frozenset(),
    closed: str = "",
) -> Server:
    return Server(
        address,
        paths,
        {m: Held(ready=loaded) for m in held},
        leaving,
        stuck,
        closed,
        chip,
        topology,
        tags,
    )


def _gib(amount: float) -> Need:
    return Need(total=int(amount * GIB))


def _model(name: str, replicas: int = 1, need: Need | None = None, on_hold: str = "") -> Model:
    return Model(name, "p.Lm", replicas, need or _gib(1), on_hold=on_hold)


def _unknown(name: str, replicas: int = 1) -> Model:
    return Model(name, "p.Lm", replicas, Need(why="checkpoint None"))


def _pairs(moves: tuple[Move, ...]) -> list[tuple[str, str]]:
    return [(m.address, m.model) for m in moves]


def test_an_idle_server_is_given_the_model() -> None:
    assert plan([_server("s1")], [_model("m")]) == Plan(loads=(Move("s1", "m"),))


def test_what_is_in_place_stays() -> None:
    servers = [_server("s1", "a", "b"), _server("s2", "c", loaded=False), _server("s3")]
    assert plan(servers, [_model("a"), _model("b"), _model("c")]) == Plan()


def test_what_is_in_place_stays_even_over_memory() -> None:
    models = [_model("a", need=_gib(40)), _model("b", need=_gib(40))]
    assert plan([_server("s1", "a", "b"), _server("s2")], models) == Plan()


def test_every_model_has_one_replica_before_any_has_two() -> None:
    models = [_model("a", 2, _gib(40)), _model("b", 2, _gib(40))]
    p = plan([_server("s1"), _server("s2")], models)
    assert _pairs(p.loads) == [("s1", "a"), ("s2", "b")]


def test_the_emptiest_server_is_taken() -> None:
    models = [_model("x"), _model("m")]
    assert _pairs(plan([_server("s1", "x"), _server("s2")], models).loads) == [("s2", "m")]
    assert _pairs(plan([_server("s1", "x")], models).loads) == [("s1", "m")]


def test_of_two_idle_servers_the_one_with_more_memory_is_taken() -> None:
    servers = [_server("s1", chip=V5E), _server("s2", chip=CPU)]
    assert _pairs(plan(servers, [_model("m")]).loads) == [("s2", "m")]


def test_memory_is_not_planned_twice() -> None:
    models = [_model(f"m{i}", need=_gib(7)) for i in range(3)]
    p = plan([_server("s1", chip=V5E)], models)
    assert _pairs(p.loads) == [("s1", "m0"), ("s1", "m1")]
    assert p.unplaced == {
        "m2": "0 of 1 replicas placed: needs 7.0 GB a chip; s1 has 16.0 GB, 2.0 GB free"
    }


def test_memory_of_a_checkpoint_is_spread_over_chips() -> None:
    servers = [_server("s1", chip=V5E), _server("s2", chip=V5E, topology=FOUR)]
    assert _pairs(plan(servers, [_model("m", need=_gib(60))]).loads) == [("s2", "m")]
    p = plan(servers, [_model("m", need=_gib(136))])
    assert p.unplaced == {
        "m": "0 of 1 replicas placed: needs 136.0 GB a chip; s1 has 16.0 GB;"
        " needs 34.0 GB a chip; s2 has 16.0 GB"
    }


def test_ram_for_the_number_of_chips_counts_else_that_for_one() -> None:
    need = Need.of_overrides({"ram": "20", "ram4": "8"})
    one, four = _server("s1", chip=V5E), _server("s2", chip=V5E, topology=FOUR)
    eight = _server("s3", chip=V5E, topology=admin_pb2.ModelServer.CHIP_TOPOLOGY_8)
    assert _pairs(plan([one, four, eight], [_model("m", 3, need)]).loads) == [("s2", "m")]


def test_a_model_for_four_chips_says_what_a_server_lacks() -> None:
    p = plan([_server("s1", chip=V5E)], [_model("m", need=Need.of_overrides({"ram4": "8"}))])
    assert p.unplaced == {"m": "0 of 1 replicas placed: needs at least 4 chips; s1 has 1 chip"}


def test_a_model_of_unknown_size_takes_a_server_of_its_own() -> None:
    servers = [_server("s1", "x"), _server("s2")]
    assert _pairs(plan(servers, [_model("x"), _unknown("m")]).loads) == [("s2", "m")]
    p = plan(servers[:1], [_model("x"), _unknown("m")])
    assert p.unplaced == {
        "m": "0 of 1 replicas placed: nobody knows how much memory it needs (checkpoint None), so"
        " it takes a server of its own, and s1 holds other models; publish it with"
        " ram=<GB a chip> to share one"
    }
    assert _pairs(plan([_server("s1", "m")], [_unknown("m"), _model("x")]).loads) == []


def test_small_models_leave_a_server_to_one_of_unknown_size() -> None:
    p = plan([_server("s1"), _server("s2")], [_model("a"), _model("b"), _unknown("z")])
    assert sorted(_pairs(p.loads)) == [("s1", "z"), ("s2", "a"), ("s2", "b")]


def test_a_model_of_unknown_size_does_not_starve_choosy_ones() -> None:
    servers = [
        _server("s1", chip=V5E),
        _server("s2", chip=CPU),
        _server("s3", chip=V5E, tags=frozenset({"fast"})),
    ]
    tagged = Model("t", "p.Lm", 1, _gib(1), frozenset({"fast"}))
    p = plan(servers, [_unknown("a"), _model("big", need=_gib(30)), tagged])
    assert sorted(_pairs(p.loads)) == [("s1", "a"), ("s2", "big"), ("s3", "t")]


def test_all_constraints_must_be_tags_of_the_server() -> None:
    model = Model("m", "p.Lm", 1, _gib(1), frozenset({"fast", "big"}))
    servers = [_server("s1", tags=frozenset({"fast"})), _server("s2", tags=frozenset({"big"}))]
    assert plan(servers, [model]).unplaced == {
        "m": "0 of 1 replicas placed: no server that offers p.Lm has the tags big, fast"
    }
    both = _server("s3", tags=frozenset({"fast", "big", "x"}))
    assert _pairs(plan([*servers, both], [model]).loads) == [("s3", "m")]


def test_replicas_are_spread_over_hosts() -> None:
    servers = [_server(f"10.0.0.{h}:{p}") for h in (1, 2) for p in (1, 2)]
    p = plan(servers, [_model("m", 2)])
    assert _pairs(p.loads) == [("10.0.0.1:1", "m"), ("10.0.0.2:1", "m")]
    p = plan([_server("10.0.0.1:1", "m"), *servers[1:]], [_model("m", 4)])
    assert _pairs(p.loads)[0] == ("10.0.0.2:1", "m")
    assert len(p.loads) == 3


def test_excess_replicas_go_from_crowded_hosts_first() -> None:
    servers = [_server("10.0.0.1:1", "m"), _server("10.0.0.1:2", "m"), _server("10.0.0.2:1", "m")]
    assert _pairs(plan(servers, [_model("m", 2)]).unloads) == [("10.0.0.1:2", "m")]


def test_a_server_holds_only_so_many_models() -> None:
    models = [_model(f"m{i:02}", need=_gib(0.1)) for i in range(MAX_MODELS_PER_SERVER + 1)]
    p = plan([_server("s1")], models)
    assert len(p.loads) == MAX_MODELS_PER_SERVER
    reason = "0 of 1 replicas placed: s1 holds 16 models; 16 are the most"
    assert p.unplaced == {models[-1].id: reason}


def test_replicas_of_a_model_are_on_different_servers() -> None:
    p = plan([_server("s1"), _server("s2")], [_model("m", 3)])
    assert _pairs(p.loads) == [("s1", "m"), ("s2", "m")]
    assert p.unplaced == {"m": "2 of 3 replicas placed: all 2 servers that offer it have it"}


def test_unpublished_models_are_unloaded() -> None:
    assert _pairs(plan([_server("s1", "gone", "m")], [_model("m")]).unloads) == [("s1", "gone")]


def test_the_place_of_an_unpublished_model_is_free_at_once() -> None:
    models = [_model("x", need=_gib(60)), _model("new", need=_gib(60))]
    p = plan([_server("s1", "gone"), _server("s2", "x")], models)
    assert (_pairs(p.unloads), _pairs(p.loads)) == ([("s1", "gone")], [("s1", "new")])


def test_what_could_not_be_unloaded_takes_its_place() -> None:
    assert plan([_server("s1", stuck=frozenset({"gone"}))], [_model("m")]).loads == ()


def test_a_model_comes_back_to_a_server_when_it_has_left() -> None:
    p = plan([_server("s1", leaving=frozenset({"m"}))], [_model("m")])
    assert p == Plan(unplaced={"m": "0 of 1 replicas placed: it is being unloaded from s1"})


def test_excess_replicas_go_where_they_are_not_ready_first() -> None:
    servers = [_server("s1:1", "m", loaded=False), _server("s2:1", "m"), _server("s3:1", "m")]
    assert _pairs(plan(servers, [_model("m", 1)]).unloads) == [("s3:1", "m"), ("s1:1", "m")]
    assert len(plan(servers, [_model("m", 0)]).unloads) == 3


def test_only_servers_that_offer_the_path_are_used() -> None:
    servers = [_server("s1", paths=frozenset({"p.Other"})), _server("s2", paths=frozenset())]
    assert plan(servers, [_model("m")]) == Plan(
        unplaced={
            "m": "0 of 1 replicas placed: none of the 2 joined model servers offers p.Lm;"
            " they offer p.Other"
        }
    )


def test_an_empty_cell_is_told() -> None:
    p = plan([], [_model("m", 2)])
    assert p.unplaced == {"m": "0 of 2 replicas placed: no model server has joined this cell"}


def test_a_closed_server_is_passed_over_and_the_reason_shown() -> None:
    closed = _server("s1", closed="is draining")
    assert _pairs(plan([closed, _server("s2")], [_model("m")]).loads) == [("s2", "m")]
    assert plan([closed], [_model("m")]).unplaced == {"m": "0 of 1 replicas placed: s1 is draining"}


def test_a_barred_server_is_passed_over_and_the_reason_shown() -> None:
    model = Model("m", "p.Lm", 1, _gib(1), barred={"s1": "load failed on s1: no memory"})
    assert _pairs(plan([_server("s1"), _server("s2")], [model]).loads) == [("s2", "m")]
    p = plan([_server("s1")], [model])
    assert p == Plan(unplaced={"m": "0 of 1 replicas placed: load failed on s1: no memory"})


def test_a_server_that_failed_is_tried_after_all_others() -> None:
    model = Model("m", "p.Lm", 1, _gib(1), failures={"s1": 1})
    servers = [_server("s1"), _server("s2", "x")]
    assert _pairs(plan(servers, [_model("x"), model]).loads) == [("s2", "m")]
    worse = Model("m", "p.Lm", 1, _gib(1), failures={"s0": 2, "s1": 1})
    assert _pairs(plan([_server("s0"), _server("s1")], [worse]).loads) == [("s1", "m")]


def test_a_model_on_hold_is_not_placed_but_kept() -> None:
    p = plan([_server("s1", "m"), _server("s2")], [_model("m", 2, on_hold="waiting")])
    assert p == Plan(unplaced={"m": "1 of 2 replicas placed: waiting"})


def test_an_override_that_is_no_memory_is_told() -> None:
    need = Need.of_overrides({"ram": "xx", "ram4": "8"})
    p = plan([_server("s1", chip=V5E)], [_model("m", need=need)])
    assert "ram=xx is no memory a chip" in p.unplaced["m"]


def test_a_reason_names_the_same_server_in_whatever_order_they_are_known() -> None:
    model = _model("m", need=_gib(900))
    servers = [_server("s1", chip=V5E), _server("s2", chip=V5E)]
    for known in (servers, servers[::-1]):
        found = decide(Places(known, {"m": model}), servers, [model]).unplaced["m"]
        assert "s1 has 16.0 GB" in found
