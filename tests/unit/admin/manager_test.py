"""Decisions that take minutes in a real cell."""

import asyncio
import itertools

import grpc
import pytest

from saxml.proto import admin_pb2, common_pb2
from tests.unit.admin.fakes import FakeRpcError, World, model_of
from tests.unit.admin.stories import Run, run

__all__ = ["run"]

NO_MEMORY = FakeRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "no memory")
GONE = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "connection refused")


def test_a_failing_server_is_tried_again_ever_more_seldom(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        one.error = NO_MEMORY
        await world.publish("lm")
        tried = [world.clock.now]
        while len(tried) < 7:
            await world.advance(1.0)
            if one.calls.count("load /sax/test/lm") > len(tried):
                tried.append(world.clock.now)
        pauses = [round(b - a) for a, b in itertools.pairwise(tried)]
        assert pauses == [10, 20, 40, 80, 160, 300]
        published = world.manager.registry.models["/sax/test/lm"]
        assert "RESOURCE_EXHAUSTED: no memory" in published.unplaced
        assert one.calls[:2] == ["load /sax/test/lm", "unload /sax/test/lm"]
        one.error = None
        await world.advance(300.0)
        assert one.models == {"/sax/test/lm": common_pb2.LOADED}
        assert published.unplaced == ""

    run(tell)


def test_a_retry_does_not_wait_for_the_next_look_at_the_whole_cell() -> None:
    async def tell() -> None:
        world = World("retry", refresh=3600.0)
        await world.manager.restore()
        one = await world.join("a:1")
        # A server that has been silent for so long is taken out.
        assert await world.decide() == pytest.approx(world.clock.now + 25)
        one.error = NO_MEMORY
        await world.manager.registry.publish(model_of("lm"))
        assert await world.decide() == pytest.approx(world.clock.now + 10)
        one.error = None
        world.clock.now += 10.1
        await world.decide()
        assert one.models == {"/sax/test/lm": common_pb2.LOADED}
        await world.manager.close()

    asyncio.run(tell())


def test_a_model_nobody_can_load_does_not_go_round_the_cell(run: Run) -> None:
    async def tell(world: World) -> None:
        servers = [await world.join(f"{c}:1") for c in "abcdef"]
        for server in servers:
            server.error = NO_MEMORY
        await world.publish("lm")
        assert sum(len(s.calls) > 0 for s in servers) == 2
        await world.advance(9.0)
        assert sum(len(s.calls) > 0 for s in servers) == 2
        await world.advance(2.0)
        assert sum(len(s.calls) > 0 for s in servers) == 3

    run(tell)


def test_a_silent_server_is_taken_out_after_25_seconds(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        two = await world.join("b:1")
        await world.publish("lm")
        one.status_error = GONE
        for _ in range(2):
            await world.advance(10.0)
        await world.advance(4.9)
        assert "a:1" in world.manager.servers
        await world.advance(0.2)
        assert "a:1" not in world.manager.servers
        assert two.calls == ["load /sax/test/lm"]
        watched = world.manager.registry.models["/sax/test/lm"].watched.read(1)
        assert watched is not None
        assert [m.WhichOneof("kind") for m in watched.changelog] == ["deletion", "addition"]

    run(tell)


def test_a_restarted_server_is_found_out_by_its_report(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.models.clear()
        await world.poll("a:1")
        assert one.calls == ["load /sax/test/lm", "load /sax/test/lm"]

    run(tell)


def test_a_report_from_before_an_action_is_not_heeded(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        one.gate.clear()
        server = world.manager.servers["a:1"]
        await world.publish("lm")
        # The server has not heard of it when it reports.
        await world.poll("a:1")
        assert server.wants("/sax/test/lm")
        version = server.version
        report = await one.get_status(1.0)
        one.gate.set()
        await world.settle()
        assert server.is_ready("/sax/test/lm")
        server.merge(report, version)
        assert server.is_ready("/sax/test/lm")
        assert one.calls == ["load /sax/test/lm"]

    run(tell)


def test_actions_on_a_server_are_done_one_at_a_time(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        one.gate.clear()
        await world.publish("x", overrides={"ram": "1"})
        await world.publish("y", overrides={"ram": "1"})
        await world.update("x", checkpoint_path="/new")
        assert one.calls == ["load /sax/test/x"]
        one.gate.set()
        await world.settle()
        assert one.calls == [
            "load /sax/test/x",
            "load /sax/test/y",
            "update /sax/test/x /new",
        ]

    run(tell)


def test_a_load_that_has_not_begun_is_dropped_when_the_model_goes(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        one.gate.clear()
        await world.publish("x", overrides={"ram": "1"})
        await world.publish("y", overrides={"ram": "1"})
        model_id = world.manager.registry.models["/sax/test/y"].id
        await world.manager.registry.unpublish(model_id)
        one.gate.set()
        await world.settle()
        assert one.calls == ["load /sax/test/x"]
        assert list(world.manager.servers["a:1"].entries) == ["/sax/test/x"]

    run(tell)


def test_a_failed_update_is_tried_again_and_the_model_serves_on(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.error = GONE
        await world.update("lm", checkpoint_path="/new")
        assert one.calls[1:] == ["update /sax/test/lm /new"]
        entry = world.manager.servers["a:1"].entries["/sax/test/lm"]
        assert entry.reason == "the last update failed: UNAVAILABLE: connection refused"
        assert entry.wanted
        one.error = None
        await world.advance(9.0)
        assert len(one.calls) == 2
        await world.advance(2.0)
        assert one.calls[2:] == ["update /sax/test/lm /new"]
        assert entry.reason == ""

    run(tell)


def test_only_changes_that_a_server_must_know_are_handed_on(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm", overrides={"K": "1"})
        await world.update("lm", 2)
        await world.update("lm", 2, overrides={"K": "2"})
        assert one.calls == ["load /sax/test/lm"]
        acls = common_pb2.AccessControlLists(items={"lm.score": ""})
        await world.update("lm", 2, acls=acls)
        await world.update("lm", 2, acls=acls, checkpoint_path="/new")
        assert one.calls[1:] == ["update /sax/test/lm", "update /sax/test/lm /new"]
        assert world.manager.registry.models["/sax/test/lm"].proto.overrides == {"K": "2"}

    run(tell)


def test_models_that_are_not_ours_are_left_alone(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("gone")
        one.status_error = GONE
        await world.advance(26.0)
        await world.manager.registry.unpublish(world.manager.registry.models["/sax/test/gone"].id)
        one.models["/sax/test/static"] = common_pb2.LOADED
        again = await world.join("a:1")
        # What was unpublished while the server was away is unloaded, what never was is not.
        assert again.calls == ["unload /sax/test/gone"]
        assert again.models == {"/sax/test/static": common_pb2.LOADED}

    run(tell)


def test_a_server_that_joins_with_a_failed_model_is_cleaned(run: Run) -> None:
    async def tell(world: World) -> None:
        await world.publish("lm")
        first = world.connect("a:1")
        first.models["/sax/test/lm"] = common_pb2.FAILED
        one = await world.join("a:1")
        assert one.calls == ["unload /sax/test/lm"]
        two = await world.join("b:1")
        assert two.calls == ["load /sax/test/lm"]

    run(tell)


def test_a_dormant_server_is_shown_as_such(run: Run) -> None:
    async def tell(world: World) -> None:
        await world.join("a:1")
        server = world.manager.servers["a:1"]
        report = await world.modelets["a:1"].get_status(1.0)
        report.server_status.state = report.server_status.DORMANT
        server.merge(report, server.version)
        assert server.is_dormant

    run(tell)


def test_a_caller_that_gives_up_does_not_tear_a_change_apart(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        model = admin_pb2.Model(
            model_id="/sax/test/lm",
            model_path="p.Lm",
            checkpoint_path="None",
            requested_num_replicas=1,
        )
        task = asyncio.create_task(world.manager.registry.publish(model))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not world.manager.registry.models:
            await asyncio.sleep(0.001)
        await world.settle()
        assert one.calls == ["load /sax/test/lm"]

    run(tell)
