"""A new checkpoint, step by step, as the assigner sees it."""

import random

from hypothesis import given
from hypothesis import strategies as st

from saxml.admin.assigner import Held, Model, Plan, Server, plan
from saxml.admin.memory import GIB, Need
from saxml.proto import admin_pb2

V5E = admin_pb2.ModelServer.CHIP_TYPE_TPU_V5E
NEED = Need(total=10 * GIB)
READY, OLD, OLD_DOWN = Held(), Held(stale=True), Held(ready=False, stale=True)
COMING, UPDATING = Held(ready=False), Held(ready=False, updating=True)


def _cell(*held: Held | None, closed: str = "") -> list[Server]:
    """One server for each; it has room for one replica."""
    return [
        Server(
            f"s{i}:1",
            frozenset({"p"}),
            {} if h is None else {"m": h},
            chip=V5E,
            closed=closed if i == 0 else "",
        )
        for i, h in enumerate(held)
    ]


def _model(replicas: int, failing: bool = False, on_hold: str = "") -> Model:
    return Model("m", "p", replicas, NEED, failing=failing, on_hold=on_hold)


def _told(p: Plan) -> tuple[list[str], list[str], list[str], list[str]]:
    unloads, loads, surges, updates = (
        [m.address for m in moves] for moves in (p.unloads, p.loads, p.surges, p.updates)
    )
    return unloads, loads, surges, updates


def test_a_new_checkpoint_is_loaded_on_a_free_server_first() -> None:
    assert _told(plan(_cell(OLD, None), [_model(1)])) == ([], [], ["s1:1"], [])
    assert _told(plan(_cell(OLD, COMING), [_model(1)])) == ([], [], [], [])
    assert _told(plan(_cell(OLD, READY), [_model(1)])) == (["s0:1"], [], [], [])


def test_without_a_free_server_replicas_are_updated_one_after_the_other() -> None:
    assert _told(plan(_cell(OLD, OLD), [_model(2)])) == ([], [], [], ["s0:1"])
    assert _told(plan(_cell(UPDATING, OLD), [_model(2)])) == ([], [], [], [])
    assert _told(plan(_cell(READY, OLD), [_model(2)])) == ([], [], [], ["s1:1"])


def test_the_only_replica_is_updated_where_it_is() -> None:
    assert _told(plan(_cell(OLD), [_model(1)])) == ([], [], [], ["s0:1"])


def test_the_last_replica_that_serves_waits_for_another() -> None:
    assert _told(plan(_cell(OLD, OLD_DOWN), [_model(2)])) == ([], [], [], ["s1:1"])
    assert _told(plan(_cell(OLD, COMING), [_model(2)])) == ([], [], [], [])
    silent = _cell(OLD_DOWN, OLD, closed="does not answer")
    assert _told(plan(silent, [_model(2)])) == ([], [], [], [])


def test_nothing_is_updated_in_place_before_it_may_be_placed_elsewhere() -> None:
    wait = _model(1, on_hold="the size of its checkpoint is being read")
    assert _told(plan(_cell(OLD, None), [wait])) == ([], [], [], [])


def test_large_models_roll_by_a_quarter() -> None:
    assert len(plan(_cell(*[OLD] * 8), [_model(8)]).updates) == 2
    assert len(plan(_cell(*[OLD] * 8, None, None, None), [_model(8)]).surges) == 2


def test_a_checkpoint_that_failed_is_not_given_to_replicas_that_serve() -> None:
    p = plan(_cell(OLD, None), [_model(1, failing=True, on_hold="load failed twice")])
    assert _told(p) == ([], [], [], [])
    assert p.unplaced == {"m": "1 of 1 replicas keep the former checkpoint: load failed twice"}
    assert _told(plan(_cell(OLD, OLD), [_model(2, failing=True)])) == ([], [], [], [])
    # Unless it has been loaded elsewhere.
    assert _told(plan(_cell(READY, OLD), [_model(2, failing=True)])) == ([], [], [], ["s1:1"])


def test_fewer_replicas_end_old_ones_first() -> None:
    assert _told(plan(_cell(READY, OLD, OLD), [_model(1)]))[0] == ["s1:1", "s2:1"]
    assert _told(plan(_cell(OLD, COMING), [_model(0)]))[0] == ["s0:1", "s1:1"]


def test_what_servers_had_already_is_checked_one_after_the_other() -> None:
    found = Held(unsure=True)
    assert _told(plan(_cell(found, found, None), [_model(2)])) == ([], [], [], ["s0:1"])
    checking = Held(unsure=True, updating=True)
    assert _told(plan(_cell(checking, found), [_model(2)])) == ([], [], [], [])
    assert _told(plan(_cell(READY, found), [_model(2, failing=True)])) == ([], [], [], ["s1:1"])


def test_a_checkpoint_too_large_for_the_server_is_not_put_there() -> None:
    big = Model("m", "p", 1, Need(total=20 * GIB))
    assert _told(plan(_cell(OLD), [big])) == ([], [], [], [])


@given(st.integers(1, 9), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_rollout_ends_and_somebody_serves_all_the_time(
    replicas: int, spare: int, chance: random.Random
) -> None:
    held: list[Held | None] = [OLD] * replicas + [None] * spare
    for _ in range(40 * (replicas + spare)):
        servers = _cell(*held)
        p = plan(servers, [_model(replicas)])
        at = {s.address: i for i, s in enumerate(servers)}
        for move in p.unloads:
            held[at[move.address]] = None
        for move in (*p.loads, *p.surges):
            held[at[move.address]] = COMING
        for move in p.updates:
            held[at[move.address]] = UPDATING
        now = [h for h in held if h is not None]
        least = replicas - max(1, replicas // 4)
        assert sum(h.ready for h in now) >= least
        assert len(now) <= replicas + max(1, replicas // 4)
        if now == [READY] * replicas:
            return
        waiting = [i for i, h in enumerate(held) if h in (COMING, UPDATING)]
        if waiting:
            held[chance.choice(waiting)] = READY
    raise AssertionError(f"still {held}")
