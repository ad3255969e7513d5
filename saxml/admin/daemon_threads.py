"""Threads for calls to a store that may hang: they take none of those that everybody uses."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


class DaemonThreads(concurrent.futures.Executor):
    """A thread for each call, which does not keep the process alive; for seldom and long calls."""

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Any:
        """See Executor.submit."""
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=call, name=self._name, daemon=True).start()
        return future
