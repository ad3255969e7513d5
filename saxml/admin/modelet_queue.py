"""Actions on one model server, in order and one at a time."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

_logger = logging.getLogger(__name__)
Action = Callable[[], Awaitable[None]]


class ModeletQueue:
    """A first-in-first-out queue that a task of its own drains until close()."""

    def __init__(self, address: str) -> None:
        self._address = address
        # How many actions were ever put into it.
        self.put_so_far = 0
        self._actions: asyncio.Queue[tuple[str, Action]] = asyncio.Queue()
        self._task = asyncio.create_task(self._drain(), name=f"actions of {address}")

    def put(self, label: str, action: Action) -> None:
        """Adds an action; it handles its own errors."""
        _logger.info("Enqueuing action %s, queue size %d", label, self._actions.qsize())
        self.put_so_far += 1
        self._actions.put_nowait((label, action))

    async def close(self) -> None:
        """Cancels the action under way and drops the others."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _drain(self) -> None:
        while True:
            label, action = await self._actions.get()
            _logger.info("Taking action %s", label)
            try:
                await action()
            except Exception:
                _logger.exception("Action %s on model server %s failed", label, self._address)
