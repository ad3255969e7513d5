"""Servers that fall silent, drain, sleep and come back; and admin servers that stop."""

import asyncio

import grpc
import pytest

from saxml.common.errors import UnavailableError
from saxml.proto import common_pb2
from tests.unit.admin.fakes import FakeRpcError, World
from tests.unit.admin.stories import Run, run

__all__ = ["run"]

GONE = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "connection refused")
SLOW = FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded")
LM = "/sax/test/lm"


def test_a_server_that_cannot_be_reached_leaves_the_clients_at_once(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.status_error = GONE
        await world.poll("a:1")
        assert world.shown("lm") == []
        assert world.manager.servers["a:1"].wants(LM), "its replica is not given away yet"
        one.status_error = None
        await world.poll("a:1")
        assert world.shown("lm") == ["a:1"]
        assert one.calls == [f"load {LM}"]

    run(tell)


def test_a_server_that_hangs_leaves_the_clients_when_it_does_so_twice(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.status_error = SLOW
        await world.poll("a:1")
        assert world.shown("lm") == ["a:1"]
        await world.poll("a:1")
        assert world.shown("lm") == []

    run(tell)


def test_a_silent_server_is_given_nothing_and_does_not_count_as_ready(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.status_error = GONE
        await world.poll("a:1")
        await world.publish("other")
        unplaced = world.manager.registry.models["/sax/test/other"].unplaced
        assert unplaced == "0 of 1 replicas placed: a:1 does not answer"
        waiting = asyncio.create_task(
            world.manager.wait_for_ready(world.manager.registry.models[LM], 1)
        )
        await world.settle()
        assert not waiting.done()
        one.status_error = None
        await world.join("a:1")
        assert await waiting

    run(tell)


def test_a_server_that_joins_seldom_stays_while_it_answers(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        for _ in range(90):
            await world.advance(10.0)
        assert world.shown("lm") == ["a:1"]
        assert one.calls == [f"load {LM}"]

    run(tell)


def test_a_broken_line_is_looked_into_at_once(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.status_error = GONE
        one.broken.set()
        await world.settle()
        assert world.shown("lm") == []

    run(tell)


def test_a_model_that_stands_still_leaves_the_clients_and_comes_back(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await world.join("a:1"), await world.join("b:1")
        await world.publish("lm", 2)
        assert world.shown("lm") == ["a:1", "b:1"]
        one.models[LM] = common_pb2.LOADING
        one.reasons[LM] = "the present step has been running for 61 s"
        await world.poll("a:1")
        assert world.shown("lm") == ["b:1"]
        entry = world.manager.servers["a:1"].entries[LM]
        assert entry.reason == "the present step has been running for 61 s"
        one.models[LM] = common_pb2.LOADED
        del one.reasons[LM]
        await world.poll("a:1")
        assert world.shown("lm") == ["a:1", "b:1"]
        assert entry.reason == ""
        assert one.calls == two.calls == [f"load {LM}"]

    run(tell)


def test_a_draining_server_is_left_and_its_replicas_go_elsewhere(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await world.join("a:1"), await world.join("b:1")
        await world.publish("lm")
        one.state.explanation = "draining"
        one.models[LM] = common_pb2.UNLOADING
        await world.poll("a:1")
        assert world.shown("lm") == ["b:1"]
        assert two.calls == [f"load {LM}"]
        assert one.calls == [f"load {LM}"], "it unloads by itself"
        # Its farewell: nothing can be loaded there any more, its models are as they were.
        await world.join("a:1", "p.None")
        await world.update("lm", 2)
        assert world.modelets["a:1"].calls == []
        unplaced = world.manager.registry.models[LM].unplaced
        assert unplaced == "1 of 2 replicas placed: all 1 servers that offer it have it"

    run(tell)


def test_a_load_that_a_draining_server_refuses_is_nobodys_fault(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        one.state.explanation = "draining"
        one.error = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "this model server is draining")
        await world.publish("lm")
        assert world.manager.registry.models[LM].failures.in_a_row == 0

    run(tell)


def test_sleeping_servers_are_woken_once_a_round(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await world.join("a:1"), await world.join("b:1")
        await world.publish("lm", 2)
        await world.advance(10.0)
        for server in (one, two):
            server.state.state = server.state.DORMANT
        one.state.stats.early_rejection_errors_per_second = 5.0
        await world.advance(10.0)
        assert two.calls == [f"load {LM}", "wake up"]
        await world.settle()
        assert "wake up" not in one.calls
        assert two.calls.count("wake up") == 1
        # No more rejections than before: nobody else is needed.
        await world.advance(10.0)
        assert two.calls.count("wake up") == 1

    run(tell)


def test_after_close_nothing_happens_any_more(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        one.gate.clear()
        await world.publish("lm")
        await world.publish("next", overrides={"ram": "1"})
        await world.manager.close()
        one.gate.set()
        await world.settle()
        assert one.calls == [f"load {LM}"]
        with pytest.raises(UnavailableError, match="this admin server stops"):
            await world.join("a:1")
        # It may lead again.
        await world.manager.restore()
        await world.join("a:1")
        await world.advance(13.0)
        assert world.shown("lm") == ["a:1"]

    run(tell)


def test_what_another_admin_server_unloads_is_not_touched(run: Run) -> None:
    async def tell(world: World) -> None:
        world.connect("a:1").models[LM] = common_pb2.UNLOADING
        await world.publish("lm")
        one = await world.join("a:1")
        assert one.calls == []
        del one.models[LM]
        await world.poll("a:1")
        assert one.calls == [f"load {LM}"]

    run(tell)
