"""Follows an object of a store: calls back when it has changed, and from time to time anyway."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from functools import partial

from saxml.admin.daemon_threads import DaemonThreads
from saxml.common.errors import SaxError
from saxml.storage.base import Store

_logger = logging.getLogger(__name__)


async def follow(
    store: Store, name: str, react: Callable[[], Awaitable[None]], *, period_s: float
) -> None:
    """Awaits react() when `name` was written, and every period_s seconds, until cancelled.

    When the store cannot be asked, that is logged and tried again after period_s.
    """
    stop = threading.Event()
    threads = DaemonThreads(f"follow {name}")
    loop = asyncio.get_running_loop()
    generation, failure = -1, ""
    try:
        while True:
            watch = partial(store.watch, name, generation, period_s, stop=stop)
            try:
                generation = await loop.run_in_executor(threads, watch)
            except SaxError as error:
                if str(error) != failure:
                    _logger.warning("Cannot watch %s/%s: %s", store.root, name, error)
                failure = str(error)
                await asyncio.sleep(period_s)
                continue
            failure = ""
            await react()
    finally:
        stop.set()
