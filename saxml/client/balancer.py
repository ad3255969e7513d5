"""Which of a model's servers gets the next call."""

import random
import threading
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from saxml.common.errors import UnavailableError


class Balancer:
    """Picks two servers at random and takes the one with fewer of our calls in flight.

    At most `max_servers` servers are used, always the same ones while the set does not change, so
    that many clients of a large cell do not each hold a connection to every server.

        with balancer.pick(addresses, avoid=failed) as address:
            ...
    """

    def __init__(self, rng: random.Random, max_servers: int) -> None:
        self._rng = rng
        self._max_servers = max_servers
        self._salt = rng.getrandbits(32)
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def pick(self, addresses: Collection[str], avoid: Collection[str] = ()) -> Iterator[str]:
        """An address, counted as in use until the block ends; those in `avoid` only at need."""
        address = self._acquire(addresses, avoid)
        try:
            yield address
        finally:
            with self._lock:
                self._in_flight[address] -= 1
                if not self._in_flight[address]:
                    del self._in_flight[address]

    def in_flight(self, address: str) -> int:
        """Calls that are under way at this address."""
        with self._lock:
            return self._in_flight[address]

    def _acquire(self, addresses: Collection[str], avoid: Collection[str]) -> str:
        usable = self._subset(addresses)
        candidates = [a for a in usable if a not in avoid] or usable
        if not candidates:
            raise UnavailableError("no model server to choose from")
        with self._lock:
            two = self._rng.sample(candidates, min(2, len(candidates)))
            address = min(two, key=lambda a: self._in_flight[a])
            self._in_flight[address] += 1
        return address

    def _subset(self, addresses: Collection[str]) -> list[str]:
        if len(addresses) <= self._max_servers:
            return sorted(addresses)
        # Rendezvous hashing: a server that comes or goes moves only its own share of the clients.
        return sorted(addresses, key=lambda a: (zlib.crc32(a.encode(), self._salt), a))[
            : self._max_servers
        ]
