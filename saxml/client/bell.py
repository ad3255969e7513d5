"""Tells whoever waits, in a thread or an event loop, that something has changed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Bell:
    """Counts how often it rang, so that no ring is missed between a look and a wait.

    count = bell.count
    if not as_wished():
        bell.wait(count, timeout_s=5)
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._listeners: list[Callable[[], None]] = []

    @property
    def count(self) -> int:
        """How often it has rung."""
        with self._condition:
            return self._count

    def ring(self) -> None:
        """Wakes all who wait and calls all who listen."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()
            listeners = [*self._listeners]
        for listener in listeners:
            listener()

    def wait(self, count: int, timeout_s: float) -> bool:
        """Blocks until it has rung more than `count` times; False if the time is over first."""
        with self._condition:
            return self._condition.wait_for(lambda: self._count != count, timeout_s)

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Has `listener` called, by the thread that rings, until the block ends."""
        with self._condition:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._condition:
                self._listeners.remove(listener)
