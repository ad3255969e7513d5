"""The one place that reads time, so that tests can bring their own."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds, as floats."""

    def monotonic(self) -> float:
        """Never goes back; for periods and deadlines."""

    def time(self) -> float:
        """Since the epoch; for display."""

    def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)
