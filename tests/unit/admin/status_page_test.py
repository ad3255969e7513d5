import asyncio
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable

import grpc
import pytest

from saxml.admin.status_page import StatusPage, render
from saxml.common.errors import InvalidArgumentError, NotFoundError
from tests.unit.admin.fakes import FakeRpcError, World


def _story(name: str, tell: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World(name)
        await world.manager.restore()
        await tell(world)
        await world.manager.close()

    asyncio.run(run())


def test_the_cell_shows_models_and_servers() -> None:
    async def tell(world: World) -> None:
        await world.join("10.0.0.1:10001")
        await world.publish("lm", 2, checkpoint_path="gs://b/x+y")
        await world.publish("other", model_path="p.Nobody")
        world.clock.now += 1.5
        page = await render(world.manager, "/")
        assert "<title>/sax/test Cell Status</title>" in page
        assert '<td><a href="/model/sax/test/lm">/sax/test/lm</a></td><td>2</td><td>1</td>' in page
        assert "<td>p.Lm</td><td>gs://b/x+y</td>" in page
        assert "none of the 1 joined model servers offers p.Nobody" in page
        assert "<td>1.500</td>" in page
        assert '<a href="/model/sax/test/lm">/sax/test/lm</a>: LOADED</td><td>Active</td>' in page
        assert await render(world.manager, "/whatever") == page

    _story("page-cell", tell)


def test_an_idle_server_is_idle() -> None:
    async def tell(world: World) -> None:
        await world.join("a:1")
        assert "<td>Idle</td><td>Active</td>" in await render(world.manager, "/")

    _story("page-idle", tell)


def test_a_model_has_a_page() -> None:
    async def tell(world: World) -> None:
        await world.join("a:1")
        await world.join("b:1")
        await world.publish("lm")
        page = await render(world.manager, "/model/sax/test/lm")
        assert "<title>Model Status</title>" in page
        assert "a:1" in page
        assert "b:1" not in page
        with pytest.raises(NotFoundError) as missing:
            await render(world.manager, "/model/sax/test/nope")
        text = 'Failed to list model "/sax/test/nope": model {test nope} not found'
        assert str(missing.value) == text
        with pytest.raises(InvalidArgumentError, match=r'^Invalid model name "/x": model full'):
            await render(world.manager, "/model/x")

    _story("page-model", tell)


def test_a_server_has_a_page_with_what_it_says() -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        page = await render(world.manager, "/server/a:1")
        assert "<td>/sax/test/lm</td><td>LOADED</td><td></td>" in page
        one.status_error = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "gone")
        assert "no answer: UNAVAILABLE: gone" in await render(world.manager, "/server/a:1")
        with pytest.raises(NotFoundError, match=r"^Failed to locate server 1\.2\.3\.4:5: model"):
            await render(world.manager, "/server/1.2.3.4:5")

    _story("page-server", tell)


def test_nothing_a_server_says_becomes_markup() -> None:
    async def tell(world: World) -> None:
        evil = "<script>alert('x')</script>"
        one = await world.join(f'a"{evil}:1')
        one.error = FakeRpcError(grpc.StatusCode.INTERNAL, evil)
        await world.publish("lm")
        for path in ("/", "/model/sax/test/lm", f'/server/a"{evil}:1'):
            page = await render(world.manager, path)
            assert "<script" not in page
            assert "&lt;script&gt;" in page

    _story("page-evil", tell)


def test_pages_and_errors_are_served_over_http() -> None:
    async def tell(world: World) -> None:
        page = StatusPage(world.manager, 0)
        page.start()

        def get(path: str) -> tuple[int, str, str]:
            try:
                with urllib.request.urlopen(f"http://localhost:{page.port}{path}") as answer:
                    return answer.status, answer.headers["Content-Type"], answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.headers["Content-Type"], error.read().decode()

        code, kind, text = await asyncio.to_thread(get, "/")
        assert (code, kind) == (200, "text/html; charset=utf-8")
        assert "/sax/test Cell Status" in text
        code, kind, text = await asyncio.to_thread(get, "/model/sax/test/nope")
        assert (code, kind) == (500, "text/plain; charset=utf-8")
        assert text.startswith('Failed to list model "/sax/test/nope"')
        await asyncio.to_thread(page.stop)

    _story("page-http", tell)
