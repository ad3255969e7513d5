"""When a model may be loaded again after a failure: pure, over a clock's readings.

The server that failed is left alone for 10, 20, 40 ... at most 300 seconds. Another server may try
at once; after that second failure in a row the model as a whole waits by the same rule, so that a
model which cannot be loaded anywhere does not go round a large cell.
"""

import math
from dataclasses import dataclass, field

FIRST_WAIT_S = 10.0
LONGEST_WAIT_S = 300.0


def wait_after(failures: int) -> float:
    """Seconds to wait after this many failures in a row; none after none."""
    if failures <= 0:
        return 0.0
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 30))


@dataclass(slots=True)
class _Failed:
    count: int
    until: float
    reason: str


@dataclass(slots=True)
class Failures:
    """The failed loads of one model."""

    _by_server: dict[str, _Failed] = field(default_factory=dict)
    _in_a_row: int = 0
    _hold_until: float = -math.inf

    def record(self, address: str, reason: str, now: float) -> None:
        """A load failed on the server at `address`."""
        old = self._by_server.get(address)
        count = (old.count if old else 0) + 1
        self._by_server[address] = _Failed(count, now + wait_after(count), reason)
        self._in_a_row += 1
        self._hold_until = now + wait_after(self._in_a_row - 1)

    def succeeded(self, address: str) -> None:
        """A load succeeded on the server at `address`."""
        self._by_server.pop(address, None)
        self._in_a_row = 0
        self._hold_until = -math.inf

    def clear(self) -> None:
        """Forgets everything, because the model was changed."""
        self._by_server.clear()
        self._in_a_row = 0
        self._hold_until = -math.inf

    @property
    def in_a_row(self) -> int:
        """How many loads in a row have failed, on any servers."""
        return self._in_a_row

    def counts(self) -> dict[str, int]:
        """How many loads in a row have failed, by server."""
        return {a: f.count for a, f in self._by_server.items()}

    def all_barred(self, now: float) -> dict[str, str]:
        """Why servers may not try now, by server."""
        return {a: why for a in self._by_server if (why := self.barred(a, now))}

    def count(self, address: str) -> int:
        """How many loads in a row have failed on this server."""
        failed = self._by_server.get(address)
        return failed.count if failed else 0

    def barred(self, address: str, now: float) -> str:
        """Why this server may not try now, or ""."""
        failed = self._by_server.get(address)
        if failed is None or failed.until <= now:
            return ""
        return f"load failed on {address}: {failed.reason} (next try in {failed.until - now:.0f} s)"

    def held(self, now: float) -> str:
        """Why no server may try now, or ""."""
        if self._hold_until <= now:
            return ""
        reasons = "; ".join(f"{a}: {f.reason}" for a, f in sorted(self._by_server.items())[:3])
        return (
            f"load failed {self._in_a_row} times in a row "
            f"(next try in {self._hold_until - now:.0f} s): {reasons}"
        )

    def next_due(self, now: float) -> float:
        """When the next wait ends; infinity if none is under way."""
        ends = [f.until for f in self._by_server.values()] + [self._hold_until]
        return min((end for end in ends if end > now), default=math.inf)
