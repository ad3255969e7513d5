"""What happens to servers and clients when a published model changes."""

import asyncio

import grpc

from saxml.admin import snapshot, views
from saxml.common import list_detail
from saxml.proto import common_pb2
from tests.unit.admin.fakes import FakeModelet, FakeRpcError, World
from tests.unit.admin.stories import Run, run

__all__ = ["run"]

BROKEN = FakeRpcError(grpc.StatusCode.INVALID_ARGUMENT, "no such checkpoint")
GONE = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "connection refused")
LM = "/sax/test/lm"


async def _two(world: World) -> tuple[FakeModelet, FakeModelet]:
    one, two = await world.join("a:1"), await world.join("b:1")
    await world.publish("lm", 2)
    assert world.shown("lm") == ["a:1", "b:1"]
    return one, two


def test_a_new_checkpoint_goes_round_in_place(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await _two(world)
        one.gate.clear()
        await world.update("lm", 2, checkpoint_path="/new")
        assert (one.calls[1:], two.calls[1:]) == ([f"update {LM} /new"], [])
        assert world.shown("lm") == ["b:1"]
        one.gate.set()
        await world.settle()
        assert two.calls[1:] == [f"update {LM} /new"]
        assert world.shown("lm") == ["a:1", "b:1"]

    run(tell)


def test_a_new_checkpoint_is_ready_elsewhere_before_the_old_one_goes(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        spare = await world.join("b:1")
        spare.gate.clear()
        await world.update("lm", checkpoint_path="/new")
        assert (one.calls[1:], spare.calls) == ([], [f"load {LM}"])
        assert world.shown("lm") == ["a:1"], "clients are not sent to what is not ready"
        spare.gate.set()
        await world.settle()
        assert one.calls[1:] == [f"unload {LM}"]
        assert world.shown("lm") == ["b:1"]

    run(tell)


def test_a_broken_checkpoint_leaves_the_others_alone(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await _two(world)
        one.error = BROKEN
        await world.update("lm", 2, checkpoint_path="/new")
        assert one.calls[1:] == [f"update {LM} /new", f"unload {LM}"]
        for _ in range(30):
            await world.advance(10.0)
        assert one.calls.count(f"load {LM}") > 2, "it is tried on, where it serves nobody"
        assert two.calls == [f"load {LM}"]
        assert world.shown("lm") == ["b:1"]
        assert "no such checkpoint" in world.manager.registry.models[LM].unplaced
        one.error = None
        await world.update("lm", 2, checkpoint_path="/right")
        assert world.shown("lm") == ["a:1", "b:1"]
        assert two.calls[1:] == [f"update {LM} /right"]

    run(tell)


def test_a_broken_checkpoint_does_not_end_the_only_replica_where_there_is_a_spare(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        spare = await world.join("b:1")
        spare.error = BROKEN
        await world.update("lm", checkpoint_path="/new")
        for _ in range(10):
            await world.advance(10.0)
        assert one.calls == [f"load {LM}"]
        assert world.shown("lm") == ["a:1"]
        note = world.manager.registry.models[LM].unplaced
        assert note.startswith("1 of 1 replicas keep the former checkpoint: ")

    run(tell)


def test_an_update_that_nobody_knows_the_end_of_is_looked_after(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await _two(world)
        one.error = GONE
        await world.update("lm", 2, checkpoint_path="/new")
        # The server still has it, and says so at once.
        assert world.shown("lm") == ["a:1", "b:1"]
        assert two.calls == [f"load {LM}"], "one at a time"
        one.error = None
        await world.advance(11.0)
        assert one.calls[1:] == [f"update {LM} /new"] * 2
        assert two.calls[1:] == [f"update {LM} /new"]

    run(tell)


def test_replicas_and_access_lists_never_reload(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await _two(world)
        acls = common_pb2.AccessControlLists(items={"lm.score": ""})
        await world.update("lm", 2, acls=acls)
        await world.update("lm", 1, acls=acls)
        assert one.calls[1:] == [f"update {LM}"]
        assert two.calls[1:] == [f"update {LM}", f"unload {LM}"]

    run(tell)


def test_access_lists_that_did_not_arrive_are_sent_again(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.error = GONE
        acls = common_pb2.AccessControlLists(items={"lm.score": ""})
        await world.update("lm", acls=acls)
        one.error = None
        await world.advance(9.0)
        assert one.calls[1:] == [f"update {LM}"]
        await world.advance(2.0)
        assert one.calls[1:] == [f"update {LM}"] * 2
        assert world.shown("lm") == ["a:1"]

    run(tell)


def test_a_new_admin_server_does_not_make_all_replicas_load_at_once(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await _two(world)
        world.restart()
        await world.manager.restore()
        one, two = world.connect("a:1"), world.connect("b:1")
        one.gate.clear()
        await world.join("a:1")
        await world.join("b:1")
        # All are shown at once, and asked one after the other.
        assert world.shown("lm") == ["a:1", "b:1"]
        assert (one.calls, two.calls) == ([f"update {LM} None"], [])
        one.gate.set()
        await world.settle()
        assert two.calls == [f"update {LM} None"]
        await world.settle()
        assert one.calls == [f"update {LM} None"]

    run(tell)


def test_an_unload_waits_until_clients_have_left(run: Run) -> None:
    async def tell(world: World) -> None:
        world = World("graceful", grace=0.05)
        await world.manager.restore()
        one = await world.join("a:1")
        await world.publish("lm")
        published = world.manager.registry.models[LM]
        await world.manager.registry.unpublish(published.id)
        await world.settle()
        assert published.closed
        assert one.calls == [f"load {LM}"]
        await asyncio.sleep(0.1)
        assert one.calls == [f"load {LM}", f"unload {LM}"]
        await world.manager.close()

    run(tell)


def test_a_list_tells_of_replicas_that_have_a_former_checkpoint(run: Run) -> None:
    async def tell(world: World) -> None:
        one, two = await _two(world)
        assert _detail(world) == (2, 2)
        one.gate.clear()
        await world.update("lm", 2, checkpoint_path="/new")
        assert _detail(world) == (1, 0)
        two.gate.clear()
        one.gate.set()
        await world.settle()
        assert _detail(world) == (1, 1)
        two.gate.set()
        await world.settle()
        assert _detail(world) == (2, 2)

    run(tell)


def test_a_list_does_not_count_a_server_that_is_silent(run: Run) -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        one.status_error = GONE
        await world.poll("a:1")
        assert _detail(world) == (0, 0)
        (row,) = snapshot.models(world.manager)
        assert (row.ready, row.replicas[0].doing) == (0, "its server does not answer")

    run(tell)


def _detail(world: World) -> tuple[int, int]:
    detail = list_detail.found(views.list_models(world.manager, None))["/sax/test/lm"]
    return detail.ready, detail.current
