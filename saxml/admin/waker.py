"""Which sleeping model server shall be woken: a pure function over what servers report.

Servers that sleep turn requests away. Their rejections, as many more a second than before, are
summed up over a model's sleeping servers and divided by their number; when that is more than the
number of servers that are awake, the sleeping server with the highest address is woken.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A server that holds a model, as of its last two reports."""

    address: str
    is_dormant: bool
    # Requests a second that it turned away.
    rejections: float = 0.0
    rejections_before: float = 0.0


def choose(homes: Iterable[Sleeper]) -> str | None:
    """The server of one model's `homes` to wake, or None."""
    homes = list(homes)
    dormant = [h for h in homes if h.is_dormant]
    if not dormant:
        return None
    growth = sum(h.rejections - h.rejections_before for h in dormant)
    if growth / len(dormant) <= len(homes) - len(dormant):
        return None
    return max(h.address for h in dormant)
