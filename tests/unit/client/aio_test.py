"""sax.aio: the same behaviour as sax, awaited; no thread a call; cancelling reaches the server."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

import sax
from saxml.common.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from saxml.proto import admin_pb2, lm_pb2, lm_pb2_grpc
from tests.unit.client.stubs import StubServer, chunk
from tests.unit.client.world import MODEL, World

Code = grpc.StatusCode
_T = TypeVar("_T")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("SAX_ROOT", str(tmp_path))
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def server(world: World) -> StubServer:
    server = world.server()
    world.admin.add_model(MODEL, server.address)
    return server


def finish(coroutine: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def within(seconds: float) -> sax.ModelOptions:
    options = sax.ModelOptions()
    options.SetTimeout(seconds)
    return options


async def until(condition: Any, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def test_language_model(server: StubServer) -> None:
    async def main() -> None:
        options = within(7)
        options.SetExtraInput("temperature", 0.5)
        async with sax.aio.Model(MODEL) as model:
            lm = model.LM()
            assert await lm.Generate("hi", options) == [("one", -0.5)]
            assert dict(server.requests[0].extra_inputs.items) == {"temperature": 0.5}
            assert 4 < (server.time_left[0] or 0) < 8
            assert await lm.Score("p", ["s"]) == [-1.5]
            assert await lm.Embed("e") == [0.125, -0.000012345678, 3]
            scores, gradients = await lm.Gradient("p", "s")
            assert (scores, len(gradients["params.lm.w_x"])) == ([-2.5], 10)
            with pytest.raises(InvalidArgumentError, match="list"):
                await lm.Score("p", "suffix")

    finish(main())


def test_stream(server: StubServer) -> None:
    server.chunks = [chunk(("a", 0, [-1.0])), chunk(("b", 1, [-2.0]))]

    async def main() -> list[list[tuple[str, int, list[float]]]]:
        async with sax.aio.Model(MODEL) as model:
            return [items async for items in model.LM().GenerateStream("hi")]

    assert finish(main()) == [[("a", 0, [-1.0])], [("b", 1, [-2.0])]]


def test_stream_without_items_ends(server: StubServer) -> None:
    async def main() -> None:
        async with sax.aio.Model(MODEL) as model:
            assert [items async for items in model.LM().GenerateStream("hi")] == []

    finish(main())


def test_stream_errors(server: StubServer) -> None:
    server.chunks = [chunk(("a", 0, [-1.0]))]
    server.fail("GenerateStream", Code.UNAVAILABLE)
    server.stream_error = Code.UNAVAILABLE

    async def main() -> None:
        async with sax.aio.Model(MODEL) as model:
            items = model.LM().GenerateStream("hi")
            assert (await anext(items))[0][0] == "a"  # the first try failed before an item
            with pytest.raises(UnavailableError, match="scripted mid-stream"):
                await anext(items)

    finish(main())
    assert len(server.requests) == 2


def test_stream_that_is_left_is_cancelled_at_the_server(server: StubServer) -> None:
    server.chunks = [chunk(("a", 0, [0.0])), chunk(("b", 1, [0.0]))]
    server.release.clear()

    async def main() -> None:
        async with sax.aio.Model(MODEL) as model:
            async with contextlib.aclosing(model.LM().GenerateStream("hi")) as items:
                async for _ in items:
                    break
            await until(server.stream_ended.is_set)

    finish(main())


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND])
def test_server_error_is_tried_again(server: StubServer, code: grpc.StatusCode) -> None:
    server.fail("Generate", code, code)

    async def main() -> None:
        async with sax.aio.Model(MODEL) as model:
            assert await model.LM().Generate("hi") == [("one", -0.5)]

    finish(main())
    assert len(server.requests) == 3


def test_other_errors(server: StubServer, world: World) -> None:
    server.fail("Generate", Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED)

    async def main() -> None:
        async with sax.aio.Model(MODEL, sax.Options(fail_fast=True)) as model:
            with pytest.raises(InvalidArgumentError, match="scripted"):
                await model.LM().Generate("hi")
            with pytest.raises(ResourceExhaustedError):
                await model.LM().Generate("hi")
        async with sax.aio.Model("/sax/test/nope") as model:
            with pytest.raises(NotFoundError, match="model /sax/test/nope not found"):
                await model.LM().Generate("hi")
        world.admin.add_model("/sax/test/empty")
        async with sax.aio.Model("/sax/test/empty") as model:
            with pytest.raises(DeadlineExceededError, match="has no model server yet"):
                await model.LM().Generate("hi", within(0.2))

    finish(main())


def test_call_waits_for_the_first_server(world: World) -> None:
    late = world.server("late")
    world.admin.add_model(MODEL)

    async def main() -> None:
        async with sax.aio.Model(MODEL) as model:
            call = asyncio.create_task(model.LM().Generate("hi"))
            await until(lambda: world.admin.count(admin_pb2.WatchLocRequest) == 1)
            assert not call.done()
            world.admin.change(MODEL, "+", late.address)
            assert await call == [("late", -0.5)]

    finish(main())


def test_cancelling_the_task_cancels_the_call(server: StubServer) -> None:
    ended = threading.Event()
    server.release.clear()
    original = server.seen

    def seen(method: str, request: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(ended.set)
        original(method, request, context)

    server.seen = seen  # type: ignore[method-assign]

    async def main() -> None:
        async with sax.aio.Model(MODEL) as model:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await model.LM().Generate("hi")
            await until(ended.is_set, 5)
            call = asyncio.create_task(model.LM().Generate("hi"))
            await until(lambda: len(server.requests) == 2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    finish(main())


def test_closing_ends_calls_and_the_thread(server: StubServer, world: World) -> None:
    server.release.clear()
    world.admin.add_model("/sax/test/empty")

    async def main() -> None:
        running, waiting = sax.aio.Model(MODEL), sax.aio.Model("/sax/test/empty")
        calls = [asyncio.create_task(m.LM().Generate("hi")) for m in (running, waiting)]
        await until(lambda: len(server.requests) == 1)
        await until(lambda: world.admin.count(admin_pb2.WatchLocRequest) >= 2)
        await running.Close()
        await waiting.Close()
        for call in calls:
            with pytest.raises(CancelledError):
                await call

    finish(main())
    assert not [t for t in threading.enumerate() if t.name.startswith("watch ")]


def test_many_calls_at_once_need_no_threads(world: World) -> None:
    address, stop = _slow_server()

    async def main() -> None:
        world.admin.add_model(MODEL, address)
        async with sax.aio.Model(MODEL) as model:
            lm = model.LM()
            await lm.Generate("0")
            before = threading.active_count()
            calls = [asyncio.create_task(lm.Generate(str(i))) for i in range(200)]
            await asyncio.sleep(0.3)
            assert threading.active_count() <= before + 2
            answers = await asyncio.gather(*calls)
        assert [a[0][0] for a in answers] == [str(i) for i in range(200)]

    start = time.monotonic()
    finish(main())
    assert time.monotonic() - start < 15
    stop()


def _slow_server() -> tuple[str, Any]:
    """Answers everybody after half a second, from an event loop of its own."""
    loop = asyncio.new_event_loop()

    class Slow(lm_pb2_grpc.LMServiceServicer):
        async def Generate(self, request: Any, context: Any) -> lm_pb2.GenerateResponse:  # noqa: N802
            await asyncio.sleep(0.5)
            return lm_pb2.GenerateResponse(texts=[lm_pb2.DecodedText(text=request.text)])

    async def start() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        lm_pb2_grpc.add_LMServiceServicer_to_server(Slow(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)

    return f"127.0.0.1:{port}", stop


def test_replica_killed_under_load(world: World) -> None:
    servers = [world.server(name) for name in ("one", "two")]
    world.admin.add_model(MODEL, *(s.address for s in servers))

    async def main() -> None:
        stop = asyncio.Event()
        answers: list[str] = []

        async with sax.aio.Model(MODEL) as model:

            async def work() -> None:
                while not stop.is_set():
                    answers.append((await model.LM().Generate("hi", within(30)))[0][0])

            async with asyncio.TaskGroup() as tasks:
                for _ in range(16):
                    tasks.create_task(work())
                await until(lambda: answers.count("one") > 20 and answers.count("two") > 20)
                await asyncio.to_thread(servers[0].stop)
                before = len(answers)
                await until(lambda: len(answers) > before + 200)
                stop.set()

    finish(main())


def test_admin(world: World) -> None:
    async def main() -> None:
        async with sax.aio.Admin("/sax/test") as admin:
            await admin.Publish(MODEL, "p.M", "ckpt", 2, {"A": "1"})
            assert await admin.List(MODEL) == ("p.M", "ckpt", 2)
            await admin.Update(MODEL, "p.M", "ckpt2", 1)
            detail = sax.ModelDetail("p.M", "ckpt2", 1, 0, {"A": "1"})
            assert await admin.ListDetail(MODEL) == detail
            assert await admin.ListAll() == [MODEL]
            await admin.WaitForReady(MODEL, 1)
            assert await admin.Stats() == []
            await admin.SetACL(MODEL, "acl/all", "lm.score")
            assert await admin.GetACL(MODEL, "lm.score") == "acl/all"
            await admin.SetACL("/sax/test", "acl/all")
            assert await admin.GetACL("/sax/test") == "acl/all"
            await admin.Unpublish(MODEL)
            with pytest.raises(NotFoundError):
                await admin.List(MODEL)

    finish(main())


def test_functions_of_the_module(world: World) -> None:
    async def main() -> None:
        await sax.aio.Publish(MODEL, "p.M", "None", 1)
        await sax.aio.Update(MODEL, "p.M", "None", 2)
        assert await sax.aio.List(MODEL) == ("p.M", "None", 2)
        assert (await sax.aio.ListDetail(MODEL)).max_replicas == 2
        assert await sax.aio.ListAll("/sax/test") == [MODEL]
        assert await sax.aio.Stats("/sax/test") == []
        await sax.aio.WaitForReady(MODEL, 1)
        await sax.aio.SetACL(MODEL, "acl/all")
        assert await sax.aio.GetACL(MODEL) == "acl/all"
        await sax.aio.Unpublish(MODEL)
        assert await sax.aio.ListAll("/sax/test") == []

    finish(main())


def test_admin_follows_the_leader(world: World) -> None:
    async def main() -> None:
        async with sax.aio.Admin("/sax/test") as admin:
            assert await admin.ListAll() == []
            old = world.admin
            new = world.start_admin("admin_2")
            new.add_model(MODEL)
            old.stand_by(new.address)
            assert await admin.ListAll() == [MODEL]

    finish(main())


def test_watch_gives_the_addresses(world: World) -> None:
    world.admin.add_model(MODEL, "a:1", "b:2")

    async def main() -> None:
        async with sax.aio.Admin("/sax/test") as admin:
            watch: AsyncIterator[frozenset[str]] = admin.Watch(MODEL)
            assert await anext(watch) == {"a:1", "b:2"}
            world.admin.change(MODEL, "-", "a:1")
            assert await anext(watch) == {"b:2"}

    finish(main())


def test_each_loop_needs_a_model_of_its_own(server: StubServer) -> None:
    model = sax.aio.Model(MODEL)
    finish(model.LM().Generate("hi"))
    with pytest.raises(FailedPreconditionError, match="another event loop"):
        finish(model.LM().Generate("hi"))


def test_every_name_of_sax_has_a_twin() -> None:
    data = {"AdminOptions", "ModelDetail", "ModelOptions", "ModelServerTypeStat", "Options"}
    data |= {"Generated", "Generation", "ScoredToken", "TokenLogProb"}
    assert {*sax.__all__} - data - {"SaxError", "aio"} == {*sax.aio.__all__}
    for kind in ("Admin", "LanguageModel", "Model"):
        mine = {n for n in dir(getattr(sax, kind)) if not n.startswith("_")}
        twins = {n for n in dir(getattr(sax.aio, kind)) if not n.startswith("_")}
        assert mine <= twins
