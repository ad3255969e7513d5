"""Keeps a model's addresses up to date in the background."""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from saxml.client.address_set import AddressSet
from saxml.client.admin_link import AdminLink
from saxml.client.bell import Bell
from saxml.client.driver import Driver, run
from saxml.client.retry import Backoff
from saxml.client.rpc import WATCH_LOC
from saxml.common.errors import CancelledError, DeadlineExceededError, SaxError, from_code

# A long poll is renewed this often, so that a connection that died in silence is noticed.
POLL_S = 60.0
# An admin server that is asked why a model has no server answers from memory.
_WHY_TIMEOUT_S = 1.0

_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """One life of the background thread, from a first question to a final error."""

    known: AddressSet = field(default_factory=AddressSet)
    heard: bool = False
    trouble: SaxError | None = None  # transient, the thread goes on
    final: SaxError | None = None  # the thread has ended


class AddressWatch:
    """A WatchLoc long poll in a thread of its own, started by the first `wait`.

    While the admin server is away the last known addresses stand. An unknown or unpublished model
    ends the watch; the next `wait` asks anew. `on_poll` is called after each answer. `link` is
    called by that thread, so its driver must be a ThreadDriver.
    """

    def __init__(
        self,
        link: AdminLink,
        model_id: str,
        rng: random.Random,
        on_poll: Callable[[], None] = lambda: None,
        poll_s: float = POLL_S,
    ) -> None:
        self._link = link
        self._model_id = model_id
        self._rng = rng
        self._on_poll = on_poll
        self._poll_s = poll_s
        # Reentrant: close() may be called by the garbage collector, anywhere.
        self._lock = threading.RLock()
        self._bell = Bell()
        self._closed = threading.Event()
        self._run: _Run | None = None
        self._thread: threading.Thread | None = None

    async def wait(self, driver: Driver, timeout_s: float) -> frozenset[str]:
        """The addresses, as soon as there are any; the caller's driver says how to wait.

        Raises NotFoundError at once for a model that is not published, and when the time is over
        the reason why there is no address: the admin server does not answer (its error), or the
        model has no server (DeadlineExceededError).
        """
        end = time.monotonic() + timeout_s
        current = self._running()
        while True:
            count = self._bell.count
            if addresses := self._look(current):
                return addresses
            if not await driver.wait(self._bell, count, max(0.0, end - time.monotonic())):
                raise await driver.blocking(lambda: self._too_late(current, timeout_s))

    def _look(self, current: _Run) -> frozenset[str]:
        with self._lock:
            if current.known.addresses:
                return current.known.addresses
            if self._closed.is_set():
                raise CancelledError("the client is closed")
            if current.final:
                raise from_code(current.final.code, str(current.final)) from current.final
        return frozenset()

    def close(self, join: bool = True) -> None:
        """Ends the thread; whoever waits gets CancelledError."""
        self._closed.set()
        self._link.close()
        self._bell.ring()
        with self._lock:
            thread = self._thread
        if join and thread and thread is not threading.current_thread():
            thread.join(timeout=10)

    def _running(self) -> _Run:
        with self._lock:
            if self._closed.is_set():
                raise CancelledError("the client is closed")
            if self._run is None or self._run.final:
                self._run = _Run()
                self._thread = threading.Thread(
                    target=self._follow,
                    args=(self._run,),
                    name=f"watch {self._model_id}",
                    daemon=True,
                )
                self._thread.start()
            return self._run

    def _too_late(self, current: _Run, timeout_s: float) -> SaxError:
        if current.trouble:
            return from_code(current.trouble.code, f"{current.trouble} (waited {timeout_s:.3g} s)")
        why = run(self._link.why_unplaced(self._model_id, _WHY_TIMEOUT_S))
        return DeadlineExceededError(
            f"model {self._model_id} has no model server yet (waited {timeout_s:.3g} s)"
            + (f": {why}" if why else "")
        )

    def _follow(self, current: _Run) -> None:
        backoff = Backoff(self._rng, start_s=0.05, factor=1.5, cap_s=1.0)
        while not self._closed.is_set():
            try:
                request = current.known.request(self._model_id)
                response = run(self._link.call(WATCH_LOC, request, self._poll_s))
            except SaxError as error:
                if not self._survives(current, error):
                    break
                if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._closed.wait(backoff.next())
            else:
                backoff.reset()
                with self._lock:
                    current.known.apply(response)
                    current.heard, current.trouble = True, None
                self._bell.ring()
            self._on_poll()

    def _survives(self, current: _Run, error: SaxError) -> bool:
        """Takes an error in; whether the thread goes on."""
        if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._renew(current)
        # Whoever has addresses keeps them unless the model is gone.
        keeps = current.heard and error.code is not grpc.StatusCode.NOT_FOUND
        with self._lock:
            if error.code in _TRANSIENT or keeps:
                if current.trouble is None and not self._closed.is_set():
                    _logger.info("Watching %s: %s; trying again", self._model_id, error)
                current.trouble = error
                return True
            current.known = AddressSet()
            current.final = error
        self._bell.ring()
        return False

    def _renew(self, current: _Run) -> bool:
        trouble: SaxError | None = None
        try:
            run(self._link.check_leader())
        except SaxError as error:
            trouble = error
        with self._lock:
            current.trouble = trouble
        return True
