"""The HTTP port of an admin server: pages for people, /healthz, /readyz and /metrics for machines.

server = HttpServer(pages, metrics, standing, fresh_s=10.0)
await server.start("localhost", 8080)
...
await server.stop()

It runs in the event loop that the manager runs in. It only tells: nothing can be changed here.
"""

import logging
import pathlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from saxml.admin.metrics import AdminMetrics
from saxml.admin.standing import Standing
from saxml.admin.status_page import StatusPages
from saxml.common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    SaxError,
)

_logger = logging.getLogger(__name__)
_STATIC = {
    name: ((pathlib.Path(__file__).parent / "static" / name).read_bytes(), kind)
    for name, kind in (
        ("icon.svg", "image/svg+xml"),
        ("live.js", "text/javascript"),
        ("style.css", "text/css"),
    )
}
_HEADERS = {
    # Nothing from elsewhere, no inline script or style, no form, no frame around it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_CODES: dict[type[SaxError], int] = {
    NotFoundError: 404,
    InvalidArgumentError: 400,
    FailedPreconditionError: 503,
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Call everything in the manager's event loop."""

    def __init__(
        self,
        pages: StatusPages,
        metrics: AdminMetrics,
        standing: Callable[[], Standing],
        *,
        fresh_s: float,
    ) -> None:
        """fresh_s: how old a standby's sight of the lease may be for it to count as ready."""
        self._pages, self._metrics, self._standing = pages, metrics, standing
        self._fresh_s = fresh_s
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Binds to `port` of `host` (0: a free one; host "": all) and answers; OSError if it is
        not possible."""
        app = web.Application(middlewares=[_answer_errors])
        app.add_routes(
            [
                web.get("/", self._cell),
                web.get("/model/{name:.+}", self._model),
                web.get("/server/{address:.+}", self._server),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_text),
                web.get("/static/{name}", self._file),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Frees the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _cell(self, request: web.Request) -> web.Response:
        return _html(self._pages.cell(part=_is_part(request)))

    async def _model(self, request: web.Request) -> web.Response:
        name = "/" + request.match_info["name"]
        return _html(self._pages.model(name, part=_is_part(request)))

    async def _server(self, request: web.Request) -> web.Response:
        address = request.match_info["address"]
        return _html(await self._pages.server(address, part=_is_part(request)))

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, why = self._standing().ready(self._fresh_s)
        return web.Response(text=f"{why}\n", status=200 if ready else 503)

    async def _metrics_text(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _file(self, request: web.Request) -> web.Response:
        if (found := _STATIC.get(request.match_info["name"])) is None:
            raise web.HTTPNotFound
        return web.Response(body=found[0], content_type=found[1], charset="utf-8")


def _is_part(request: web.Request) -> bool:
    return request.headers.get("X-Part") == "body"


def _html(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html")


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    response: web.StreamResponse
    try:
        response = await handler(request)
    except SaxError as error:
        code = _CODES.get(type(error), 500)
        response = web.Response(text=f"{error}\n", status=code)
    except web.HTTPException as error:
        response = web.Response(text=f"{error.status} {error.reason}\n", status=error.status)
    except Exception as error:
        _logger.exception("The page %s failed", request.path)
        response = web.Response(text=f"{type(error).__name__}: {error}\n", status=500)
    response.headers.update(_HEADERS)
    return response
