import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from saxml.admin.standing import Standing
from saxml.admin.status_page import StatusPages
from saxml.common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from tests.unit.admin.fakes import CELL, FakeRpcError, World

_LEADING = Standing(is_leader=True, term=7, leader_address="10.0.0.9:10000", view_age_s=0.5)


def _pages(world: World, standing: Standing = _LEADING) -> StatusPages:
    return StatusPages(CELL, "10.0.0.9:10000", lambda: standing, lambda: world.manager)


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
        page = _pages(world).cell()
        assert "<title>/sax/test Cell Status</title>" in page
        assert '<a href="/model/sax/test/lm">/sax/test/lm</a>' in page
        assert '<span class="pill partly-ready">Partly ready</span>' in page
        for label, value in (("Max", 2), ("Active", 1), ("Ready", 1)):
            assert f'<td data-label="{label}" class="number">{value}</td>' in page
        assert ">gs://b/x+y</td>" in page
        assert "p.Nobody" in page
        assert '<td data-label="Lag (s)" class="number">1.500</td>' in page
        assert '<span class="pill loaded">LOADED</span>' in page
        assert '<span class="pill active">Active</span>' in page

    _story("page-cell", tell)


def test_the_page_says_who_leads() -> None:
    async def tell(world: World) -> None:
        assert "10.0.0.9:10000 leads, term 7" in _pages(world).cell()

    _story("page-leader", tell)


def test_a_standby_names_the_leader_and_shows_no_models() -> None:
    standing = Standing(term=8, leader_address="10.0.0.7:10000", waiting_for="the lease to end")
    pages = StatusPages(CELL, "10.0.0.9:10000", lambda: standing, lambda: None)
    page = pages.cell()
    assert "the leader of /sax/test is <b>10.0.0.7:10000</b>, term 8" in page
    assert "the lease to end" in page
    assert "<table>" not in page
    with pytest.raises(FailedPreconditionError, match=r"stands by; .* is 10\.0\.0\.7:10000"):
        pages.model("/sax/test/lm")


def test_an_idle_server_is_idle_and_a_quiet_one_silent() -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        assert '<td data-label="ModelStatus">Idle</td>' in _pages(world).cell()
        one.status_error = FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
        world.clock.now += 20
        await world.poll("a:1")
        assert "Silent" not in _pages(world).cell()
        await world.poll("a:1")
        page = _pages(world).cell()
        assert '<span class="pill silent">Silent</span>' in page
        assert "no answer for 20 s" in page

    _story("page-idle", tell)


def test_a_model_has_a_page_that_says_why_a_replica_does_not_serve() -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.join("b:1")
        one.gate.clear()
        await world.publish("lm")
        page = _pages(world).model("/sax/test/lm")
        assert "<title>/sax/test/lm Model Status</title>" in page
        assert '<span class="pill not-ready">Not ready</span>' in page
        assert "the server was told to load it and has not answered yet" in page
        assert "a:1" in page
        assert "b:1" not in page
        one.gate.set()
        await world.settle()
        page = _pages(world).model("/sax/test/lm")
        assert '<span class="pill ready">Ready</span>' in page
        assert "has not answered yet" not in page

    _story("page-model", tell)


def test_what_is_no_model_is_told() -> None:
    async def tell(world: World) -> None:
        with pytest.raises(NotFoundError) as missing:
            _pages(world).model("/sax/test/nope")
        text = 'Failed to list model "/sax/test/nope": model {test nope} not found'
        assert str(missing.value) == text
        with pytest.raises(InvalidArgumentError, match=r'^Invalid model name "/x": model full'):
            _pages(world).model("/x")

    _story("page-no-model", tell)


def test_a_server_has_a_page_with_what_it_says() -> None:
    async def tell(world: World) -> None:
        one = await world.join("a:1")
        await world.publish("lm")
        page = await _pages(world).server("a:1")
        assert '<td data-label="Model" class="name">/sax/test/lm</td>' in page
        one.status_error = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "gone")
        assert "no answer: UNAVAILABLE: gone" in await _pages(world).server("a:1")
        with pytest.raises(NotFoundError, match=r"^Failed to locate server 1\.2\.3\.4:5: model"):
            await _pages(world).server("1.2.3.4:5")

    _story("page-server", tell)


def test_nothing_a_server_says_becomes_markup() -> None:
    async def tell(world: World) -> None:
        evil = "<script>alert('x')</script>"
        one = await world.join(f'a"{evil}:1')
        one.error = FakeRpcError(grpc.StatusCode.INTERNAL, evil)
        await world.publish("lm")
        pages = _pages(world)
        address = f'a"{evil}:1'
        for page in (pages.cell(), pages.model("/sax/test/lm"), await pages.server(address)):
            assert "<script>" not in page
            assert "&lt;script&gt;" in page

    _story("page-evil", tell)


def test_a_part_is_the_page_without_its_frame() -> None:
    async def tell(world: World) -> None:
        part = _pages(world).cell(part=True)
        assert "<html" not in part
        assert part.strip() in _pages(world).cell()

    _story("page-part", tell)
