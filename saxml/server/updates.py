"""What there is of a request after each step, from the engine's thread to its owner's."""

import collections
import threading

from saxml.engine.decoders import Hypothesis


class Updates:
    """A queue that never blocks who puts.

    What comes later contains what came before: an owner that lags behind by more than `backlog`
    steps (a slow reader) misses the oldest ones. None keeps all of them, for owners that have to
    look at each.
    """

    def __init__(self, backlog: int | None) -> None:
        self._waiting: collections.deque[list[Hypothesis]] = collections.deque(maxlen=backlog)
        self._put = 0
        self._over = False
        self._changed = threading.Condition()

    def put(self, hypotheses: list[Hypothesis]) -> None:
        """After a step."""
        with self._changed:
            self._waiting.append(hypotheses)
            self._put += 1
            self._changed.notify()

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def get(self) -> tuple[int, list[Hypothesis]] | None:
        """The number of the step, from 1 on, and what there was after it; waits for it. None: all
        has been got."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            if not self._waiting:
                return None
            hypotheses = self._waiting.popleft()
            return self._put - len(self._waiting), hypotheses
