"""Wakes everybody who waits for something to change, in one event loop."""

import asyncio


class Bell:
    """wait() returns at the next ring(); look at the state before each wait, there is no memory."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wakes all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Returns at the next ring."""
        await self._event.wait()
