"""The admin server's pages in a real browser."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import socket
from collections.abc import Iterator

import pytest

from saxml.common.errors import FailedPreconditionError
from saxml.proto import common_pb2
from tests.integration import admin_cell
from tests.integration.admin_cell import SHORT, RunningAdmin
from tests.integration.browser import CHROMIUM, browser
from tests.integration.stub_modelet import StubModelet, until

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)
# A machine that is busy with a browser takes nobody out.
_PATIENT = dataclasses.replace(SHORT, prune=60.0)
DESKTOP, PHONE = (1280, 800), (390, 844)
# Where screenshots go to be looked at; with Bazel, bazel-testlogs/.../test.outputs.
_OUT = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")


class _Closable(StubModelet):
    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(paths=paths)

    close = StubModelet.stop


@pytest.fixture
def admin(tmp_path: pathlib.Path) -> Iterator[RunningAdmin]:
    admin_cell.create_cell(str(tmp_path / "root"), str(tmp_path / "fs"))
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with (
        admin_cell.running(str(tmp_path / "root"), http_port=port, periods=_PATIENT) as admin,
        contextlib.closing(_Closable(("p.Lm", "p.Other"))) as good,
        contextlib.closing(_Closable(("p.Bad",))) as bad,
    ):
        admin.join(good.join_request())
        admin.join(bad.join_request())
        bad.load_errors["/sax/test/broken"] = FailedPreconditionError(
            "gs://bucket/checkpoints/gptj_6b_bf16/checkpoint_00000000 has no commit marker: the "
            "copy was not finished; copy it again"
        )
        admin.publish("/sax/test/gptj", checkpoint_path="/models/gptj/checkpoint_00000000")
        admin.publish("/sax/test/broken", model_path="p.Bad", checkpoint_path="/models/bad")
        admin.publish("/sax/test/nowhere", model_path="saxml.server.pax.lm.params.gptj.GPTJ96")
        admin.publish("/sax/test/half", replicas=2, model_path="p.Other")
        until(lambda: good.models.get("/sax/test/gptj") == common_pb2.LOADED)
        yield admin


def _url(admin: RunningAdmin, path: str = "/") -> str:
    return f"http://localhost:{admin.http_port}{path}"


@pytest.mark.parametrize("path", ["/", "/model/sax/test/broken", "server"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_the_screen_and_nothing_is_refused(
    admin: RunningAdmin, path: str, size: tuple[int, int], dark: bool, tmp_path: pathlib.Path
) -> None:
    if path == "server":
        path = f"/server/{admin.homes('/sax/test/gptj')[0]}"

    async def look() -> None:
        async with browser(*size, dark=dark) as page:
            await page.open(_url(admin, path))
            assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
            styled = await page.evaluate("getComputedStyle(document.querySelector('th')).color")
            assert styled != "rgb(0, 0, 0)"
            name = path.strip("/").split("/")[0] or "cell"
            shot = f"{name}_{size[0]}{'_dark' if dark else ''}.png"
            await page.screenshot(pathlib.Path(_OUT or tmp_path) / shot)
            assert page.complaints == []

    asyncio.run(look())


def test_a_page_follows_the_cell_without_being_loaded_again(admin: RunningAdmin) -> None:
    async def look() -> None:
        async with browser(*DESKTOP) as page:
            await page.open(_url(admin))
            await page.evaluate("window.same = true")
            assert "late" not in await page.evaluate("document.body.innerText")
            await asyncio.to_thread(admin.publish, "/sax/test/late")
            await page.until("document.body.innerText.includes('/sax/test/late')")
            assert await page.evaluate("window.same")
            assert page.complaints == []

    asyncio.run(look())


def test_a_page_says_when_it_is_out_of_date(tmp_path: pathlib.Path) -> None:
    async def look() -> None:
        async with browser(*DESKTOP) as page:
            admin_cell.create_cell(str(tmp_path / "root"), str(tmp_path / "fs"))
            with socket.create_server(("localhost", 0)) as free:
                port = free.getsockname()[1]
            with admin_cell.running(str(tmp_path / "root"), http_port=port) as admin:
                await page.open(_url(admin))
            await page.until("document.getElementById('age').innerText.includes('Out of date')")

    asyncio.run(look())


def test_a_page_can_be_read_without_script(admin: RunningAdmin) -> None:
    async def look() -> None:
        async with browser(*DESKTOP, script=False) as page:
            await page.open(_url(admin))
            text = await page.evaluate("document.body.innerText")
            assert "/sax/test/gptj" in text
            refresh = "document.querySelector('meta[http-equiv=refresh]').content"
            assert await page.evaluate(refresh) == "10"

    asyncio.run(look())
