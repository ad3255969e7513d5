"""Whether the engine's loop goes on: it beats once a turn, others ask how late the next beat is.

heartbeat = Heartbeat()
heartbeat.beat()                 # the loop, in each turn, idle or not
if stall := heartbeat.stall():   # anybody
    print(stall)
"""

import dataclasses
import time
from collections.abc import Callable

# A turn waits a second when there is nothing to do, and compiles nothing; a step of a large model
# on a slow machine takes some seconds.
LEAST_LIMIT_S = 60.0
# Steps get slower with long sequences, or when others take the machine; not so much.
SLOWEST_FACTOR = 20.0
# A stall of so many limits is taken for a loop that never goes on.
_HUNG_LIMITS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Stall:
    """A turn of the loop that has taken longer than the limit."""

    seconds: float
    limit_s: float

    @property
    def hung(self) -> bool:
        """Whether it has taken so long that only a restart will help."""
        return self.seconds > _HUNG_LIMITS * self.limit_s

    def __str__(self) -> str:
        return (
            f"the present step has been running for {self.seconds:.0f} s;"
            f" {self.limit_s:.0f} s are the most that is expected"
        )


class Heartbeat:
    """One thread beats, any thread asks."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        least_limit_s: float | None = None,
    ) -> None:
        """The limit is least_limit_s (LEAST_LIMIT_S), or SLOWEST_FACTOR times the slowest turn that
        kept it."""
        self._clock = clock
        self._limit = LEAST_LIMIT_S if least_limit_s is None else least_limit_s
        self._last: float | None = None

    def beat(self) -> None:
        """Begins a turn."""
        now = self._clock()
        if self._last is not None and (took := now - self._last) <= self._limit:
            self.expect(took)
        self._last = now

    def expect(self, seconds: float) -> None:
        """A turn is known to take so long when all is well; before the first beat, or by the thread
        that beats."""
        self._limit = max(self._limit, SLOWEST_FACTOR * seconds)

    def stop(self) -> None:
        """No further beat is expected."""
        self._last = None

    @property
    def seconds(self) -> float:
        """How long the present turn has taken; 0 before the first and after the last."""
        last = self._last
        return 0.0 if last is None else self._clock() - last

    def stall(self) -> Stall | None:
        """What is wrong if the present turn takes too long."""
        seconds, limit = self.seconds, self._limit
        return Stall(seconds, limit) if seconds > limit else None
