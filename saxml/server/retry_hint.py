"""When a caller that was refused had better come again."""

import collections

_WINDOW_S = 10.0
_SHORTEST_S = 0.01
_LONGEST_S = 5.0
# Nothing is known of the rate yet.
_UNKNOWN_S = 0.5


class RetryHint:
    """Estimates from the rate at which calls have ended lately. Not thread-safe.

    Each end makes room for one more call. The callers refused while it lasts share that room: the
    n-th of them is told to wait for n ends, so that they do not all come back at once.
    """

    def __init__(self) -> None:
        self._ended: collections.deque[float] = collections.deque(maxlen=100)
        self._told: collections.deque[float] = collections.deque()  # when those refused come again

    def ended(self, now: float) -> None:
        """A call has ended."""
        self._ended.append(now)

    def refused(self, now: float) -> float:
        """Seconds that this caller had better wait, from 10 ms to 5 s."""
        while self._ended and self._ended[0] < now - _WINDOW_S:
            self._ended.popleft()
        while self._told and self._told[0] <= now:
            self._told.popleft()
        wait = _UNKNOWN_S
        if len(self._ended) > 1:
            interval = (now - self._ended[0]) / len(self._ended)
            wait = interval * (1 + len(self._told))
        wait = min(_LONGEST_S, max(_SHORTEST_S, wait))
        # In order of time; those at the bound are as late as each other.
        self._told.append(max(now + wait, self._told[-1] if self._told else 0.0))
        return wait
