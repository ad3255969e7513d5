"""Connections to model servers, kept for the next call."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from saxml.client.driver import Channel, Driver
from saxml.common.clock import Clock
from saxml.common.errors import CancelledError, SaxError

_DIAL_TIMEOUT_S = 2.0
_IDLE_S = 600.0


@dataclass(slots=True)
class _Connection:
    channel: Channel
    last_used: float
    users: int = 0


class ConnectionTable:
    """One channel an address, closed when idle for ten minutes or when its server went away.

    with table.use("192.0.2.2:10001") as channel:
        GENERATE.call(channel, request, timeout_s)
    """

    def __init__(self, driver: Driver, clock: Clock, idle_s: float = _IDLE_S) -> None:
        self._driver = driver
        self._clock = clock
        self._idle_s = idle_s
        # Reentrant: close() may be called by the garbage collector, anywhere.
        self._lock = threading.RLock()
        self._connections: dict[str, _Connection] = {}
        self._retired: list[_Connection] = []
        self._closed = False

    @contextmanager
    def use(self, address: str) -> Iterator[Channel]:
        """The channel to an address; after UNAVAILABLE in the block the next use dials anew."""
        with self._lock:
            if self._closed:
                raise CancelledError("the client is closed")
            connection = self._connections.get(address)
            if connection is None:
                connection = _Connection(
                    self._driver.dial(address, _DIAL_TIMEOUT_S), self._clock.monotonic()
                )
                self._connections[address] = connection
            connection.users += 1
        try:
            yield connection.channel
        except SaxError as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                self._retire(address, connection)
            raise
        finally:
            with self._lock:
                connection.users -= 1
                connection.last_used = self._clock.monotonic()
                unused = self._take_unused()
            self._close(unused)

    def purge(self) -> None:
        """Closes what was not used for the idle time."""
        with self._lock:
            before = self._clock.monotonic() - self._idle_s
            for address, connection in list(self._connections.items()):
                if not connection.users and connection.last_used <= before:
                    self._retired.append(self._connections.pop(address))
            unused = self._take_unused()
        self._close(unused)

    def addresses(self) -> list[str]:
        """Addresses with a connection."""
        with self._lock:
            return sorted(self._connections)

    def close(self) -> None:
        """Closes all connections; calls under way end with CANCELLED."""
        with self._lock:
            self._closed = True
            connections = [*self._connections.values(), *self._retired]
            self._connections, self._retired = {}, []
        self._close(connections)

    def _retire(self, address: str, connection: _Connection) -> None:
        with self._lock:
            if self._connections.get(address) is connection:
                self._retired.append(self._connections.pop(address))

    def _take_unused(self) -> list[_Connection]:
        unused = [c for c in self._retired if not c.users]
        self._retired = [c for c in self._retired if c.users]
        return unused

    def _close(self, connections: list[_Connection]) -> None:
        for connection in connections:
            self._driver.close(connection.channel)
