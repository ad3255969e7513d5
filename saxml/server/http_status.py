"""A small HTTP port beside the gRPC one: /healthz, /readyz and /metrics.

status = HttpStatus(ready=lambda: (True, "serving"), registry=registry)
status.start("localhost", 8081)
...
status.stop()

It runs in a thread and an event loop of its own, and metrics are collected in another thread:
nothing here waits for an engine, and no engine waits for it.
"""

import asyncio
import threading
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class HttpStatus:
    """Answers 200 or 503 on /healthz and /readyz, with the reason."""

    def __init__(
        self,
        ready: Callable[[], tuple[bool, str]],
        registry: CollectorRegistry,
        *,
        alive: Callable[[], tuple[bool, str]] = lambda: (True, "ok"),
    ) -> None:
        """ready: whether requests are taken, and why not; alive: whether the process may go on, and
        why not. Both are called from a thread of this class."""
        self._ready, self._alive, self._registry = ready, alive, registry
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    def start(self, host: str, port: int) -> None:
        """Binds `port` of `host` (0: a free one; host "": all) and answers; OSError if it cannot.

        After an OSError the object is of no further use.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._serve(host, port), self._loop).result()
        except OSError:
            self._end()
            raise

    def stop(self) -> None:
        """Frees the port and ends the thread; without effect when it does not run."""
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
            self._runner = None
            self._end()

    async def _serve(self, host: str, port: int) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self.port = runner, int(runner.addresses[0][1])

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _healthz(self, request: web.Request) -> web.Response:
        return await _told(self._alive)

    async def _readyz(self, request: web.Request) -> web.Response:
        return await _told(self._ready)

    async def _metrics(self, request: web.Request) -> web.Response:
        body = await asyncio.to_thread(generate_latest, self._registry)
        return web.Response(body=body, headers={"Content-Type": _TEXT})


async def _told(ask: Callable[[], tuple[bool, str]]) -> web.Response:
    well, why = await asyncio.to_thread(ask)
    return web.Response(text=f"{why}\n", status=200 if well else 503)
