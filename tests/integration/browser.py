"""Headless Chromium, driven over the DevTools protocol.

async with browser(width=390, height=844) as page:
    await page.open("http://localhost:8080/")
    assert await page.evaluate("document.title") == "..."
"""

import asyncio
import base64
import contextlib
import pathlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    # What a machine of tests lacks, or shall not be asked over the network.
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0
        # What the browser complained about: refused scripts, errors, missing files.
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        """A command of the protocol, and its result."""
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=30)
            if message.get("method") == "Log.entryAdded":
                self.complaints.append(message["params"]["entry"]["text"])
            elif message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == self._last:
                assert "error" not in message, message
                return message["result"]

    async def open(self, url: str) -> None:
        """Goes there, and waits until everything is loaded."""
        for domain in ("Log", "Runtime", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("location.href != 'about:blank' && document.readyState == 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 20.0) -> None:
        """Waits until the expression is true."""
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(expression):
                await asyncio.sleep(0.05)

    async def screenshot(self, path: pathlib.Path) -> None:
        """The whole page as a PNG."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def browser(
    width: int, height: int, *, dark: bool = False, script: bool = True
) -> AsyncIterator[Page]:
    """A tab of that size, in a browser of its own."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *_OPTIONS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            base = await _devtools(process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{base}/json/list") as answer:
                    (tab,) = [t for t in await answer.json() if t["type"] == "page"]
                async with session.ws_connect(
                    tab["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    page = Page(socket)
                    await page.call(
                        "Emulation.setDeviceMetricsOverride",
                        width=width,
                        height=height,
                        deviceScaleFactor=1,
                        mobile=width < 700,
                    )
                    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
                    await page.call("Emulation.setEmulatedMedia", features=[scheme])
                    await page.call("Emulation.setScriptExecutionDisabled", value=not script)
                    yield page
        finally:
            process.kill()
            await process.wait()


async def _devtools(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while line := (await process.stderr.readline()).decode():
            if found := re.search(r"DevTools listening on ws://([^/]+)/", line):
                return f"http://{found[1]}"
    raise AssertionError("Chromium ended before it listened")
