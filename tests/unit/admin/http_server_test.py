import asyncio
import re
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from saxml.admin.http_server import HttpServer
from saxml.admin.metrics import AdminMetrics
from saxml.admin.standing import Standing
from saxml.admin.status_page import StatusPages
from tests.unit.admin.fakes import CELL, World

_Get = Callable[..., Awaitable[tuple[int, str, str]]]
_LEADING = Standing(is_leader=True, term=7, leader_address="10.0.0.9:10000", view_age_s=0.5)


class _Site:
    """A server whose standing can be changed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.standing = _LEADING
        pages = StatusPages(CELL, "10.0.0.9:1", lambda: self.standing, lambda: world.manager)
        self.metrics = AdminMetrics(lambda: self.standing, lambda: world.manager)
        self.http = HttpServer(pages, self.metrics, lambda: self.standing, fresh_s=10.0)
        self.headers: dict[str, str] = {}

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://localhost:{self.http.port}{path}", headers=headers) as answer,
        ):
            self.headers = dict(answer.headers)
            return answer.status, answer.headers["Content-Type"], await answer.text()


def _story(name: str, tell: Callable[[_Site], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World(name)
        await world.manager.restore()
        site = _Site(world)
        await site.http.start("localhost", 0)
        try:
            await tell(site)
        finally:
            await site.http.stop()
            await world.manager.close()

    asyncio.run(run())


def test_pages_are_served() -> None:
    async def tell(site: _Site) -> None:
        await site.world.join("[::1]:10001")
        await site.world.publish("lm")
        for path, text in (
            ("/", "/sax/test Cell Status"),
            ("/model/sax/test/lm", "Model /sax/test/lm"),
            ("/server/[::1]:10001", "Server [::1]:10001"),
            ("/server/%5B%3A%3A1%5D:10001", "Server [::1]:10001"),
        ):
            code, kind, body = await site.get(path)
            assert (code, kind) == (200, "text/html; charset=utf-8")
            assert text in body
        part = (await site.get("/", **{"X-Part": "body"}))[2]
        assert "<html" not in part
        assert "/sax/test/lm" in part

    _story("http-pages", tell)


def test_every_link_of_a_page_leads_somewhere() -> None:
    async def tell(site: _Site) -> None:
        await site.world.join("[::1]:10001")
        await site.world.publish("lm")
        links = set(re.findall(r'(?:href|src)="([^"]+)"', (await site.get("/"))[2]))
        assert "/server/%5B%3A%3A1%5D%3A10001" in links
        for link in links:
            assert link.startswith("/")
            assert (await site.get(link))[0] == 200, link

    _story("http-links", tell)


def test_browsers_are_told_to_trust_nothing_else() -> None:
    async def tell(site: _Site) -> None:
        for path in ("/", "/static/live.js", "/model/sax/test/nope", "/nothing"):
            await site.get(path)
            policy = site.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert site.headers["X-Content-Type-Options"] == "nosniff"
        page = (await site.get("/"))[2]
        assert not re.search(r"<script(?! src)|<style| style=| on\w+=", page)

    _story("http-headers", tell)


def test_errors_are_plain_text_with_a_status() -> None:
    async def tell(site: _Site) -> None:
        for path, status, text in (
            ("/model/sax/test/nope", 404, 'Failed to list model "/sax/test/nope": model {test '),
            ("/model/x", 400, 'Invalid model name "/x": '),
            ("/server/1.2.3.4:5", 404, "Failed to locate server 1.2.3.4:5: model server "),
            ("/helthz", 404, "404 Not Found"),
            ("/static/../http_server.py", 404, "404 Not Found"),
            ("/static/%2e%2e%2fhttp_server.py", 404, "404 Not Found"),
        ):
            code, kind, body = await site.get(path)
            assert (code, kind) == (status, "text/plain; charset=utf-8"), path
            assert body.startswith(text)

    _story("http-errors", tell)


@pytest.mark.parametrize(
    ("standing", "code", "text"),
    [
        (_LEADING, 200, "leading, term 7"),
        (
            Standing(term=3, leader_address="b:1", view_age_s=9.0),
            200,
            "standing by, term 3; the leader is b:1",
        ),
        (
            Standing(term=3, leader_address="b:1", view_age_s=11.0),
            503,
            "cut off: the lease was last read 11 s ago, longer than 10 s; the leader is b:1",
        ),
        (Standing(), 503, "starting: the lease has not been read yet"),
    ],
)
def test_readiness_is_leading_or_standing_by_with_a_fresh_view(
    standing: Standing, code: int, text: str
) -> None:
    async def tell(site: _Site) -> None:
        site.standing = standing
        assert (await site.get("/readyz"))[::2] == (code, text + "\n")
        assert (await site.get("/healthz"))[::2] == (200, "ok\n")

    _story("http-ready", tell)


def test_metrics_are_served_as_prometheus_reads_them() -> None:
    async def tell(site: _Site) -> None:
        code, kind, body = await site.get("/metrics")
        assert code == 200
        assert kind.startswith("text/plain; version=0.0.4")
        assert "\nsax_admin_term 7.0\n" in body

    _story("http-metrics", tell)


def test_a_port_in_use_is_an_os_error() -> None:
    async def tell(site: _Site) -> None:
        other = _Site(site.world)
        with pytest.raises(OSError, match="address already in use"):
            await other.http.start("localhost", site.http.port)

    _story("http-port", tell)
