"""Carries calls to the servers of one model: find, choose, try again."""

import random
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from saxml.client.address_watch import AddressWatch
from saxml.client.admin_link import AdminLink
from saxml.client.balancer import Balancer
from saxml.client.connections import ConnectionTable
from saxml.client.driver import Channel, ChannelClosedError, Driver, ThreadDriver
from saxml.client.retry import (
    FAIL_FAST_SERVER_CODES,
    SERVER_CODES,
    Backoff,
    Deadline,
    with_retry,
)
from saxml.client.rpc import Procedure
from saxml.common.clock import Clock, SystemClock
from saxml.common.errors import (
    CancelledError,
    InvalidArgumentError,
    SaxError,
    UnavailableError,
    from_code,
)
from saxml.common.names import parse_model

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a model's servers are reached.

    num_conn: at most so many servers are used. proxy: "host:port" that is called instead of the
    model's servers; the admin server is then not asked. fail_fast: an overloaded or lost server is
    an error at once, only a model that is being loaded is waited for.
    """

    num_conn: int = 37
    proxy: str = ""
    fail_fast: bool = False


_DEFAULT_OPTIONS = ClientOptions()


class ModelCore:
    """A published model, called by name; what waiting means is the driver's affair.

    Opening it contacts nobody: the first call starts a background watch of the model's addresses.
    """

    def __init__(
        self,
        model_id: str,
        root: Callable[[], str],
        driver: Driver,
        options: ClientOptions = _DEFAULT_OPTIONS,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.model = parse_model(model_id)
        if options.num_conn <= 0:
            raise InvalidArgumentError(f"num_conn must be positive, not {options.num_conn}")
        self._root = root
        self._driver = driver
        self._proxy = options.proxy
        self._codes = FAIL_FAST_SERVER_CODES if options.fail_fast else SERVER_CODES
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._balancer = Balancer(self._rng, options.num_conn)
        self._connections = ConnectionTable(driver, self._clock)
        # Reentrant: close() may be called by the garbage collector, anywhere.
        self._lock = threading.RLock()
        self._watch: AddressWatch | None = None
        self._closed = False
        # A forgotten client gives its thread and connections back when it is collected.
        weakref.finalize(self, self._connections.close)

    def close(self) -> None:
        """Stops the watch and closes all connections; calls under way end with CANCELLED."""
        with self._lock:
            self._closed = True
            watch = self._watch
        if watch:
            watch.close()
        self._connections.close()

    async def call(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> _Response:
        """Calls one of the servers, another one if need be, until the deadline; raises SaxError."""

        async def attempt(channel: Channel, remaining_s: float) -> _Response:
            response, _ = await self._driver.unary(channel, procedure, request, remaining_s)
            return response

        with ExitStack() as held:
            return await self._retried(held, attempt, timeout_s)

    async def stream(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> AsyncGenerator[_Response, None]:
        """The same for a stream. Once an item has come, an error is final.

        A stream that is not read to its end is cancelled when the generator is closed.
        """

        async def attempt(
            channel: Channel, remaining_s: float
        ) -> tuple[_Response | None, AsyncGenerator[_Response, None]]:
            responses = self._driver.stream(channel, procedure, request, remaining_s)
            try:
                return await anext(responses, None), responses
            except BaseException:
                await responses.aclose()
                raise

        with ExitStack() as held:
            first, responses = await self._retried(held, attempt, timeout_s)
            async with aclosing(responses):
                if first is None:
                    return
                with self._told():
                    yield first
                    async for response in responses:
                        yield response

    async def _retried(
        self,
        held: ExitStack,
        attempt: Callable[[Channel, float], Awaitable[_Result]],
        timeout_s: float,
    ) -> _Result:
        """Runs `attempt`; server and connection stay in `held` when it succeeds."""
        deadline = Deadline(self._clock, timeout_s)
        failed: set[str] = set()

        async def choose() -> frozenset[str]:
            return await self._addresses(deadline.remaining())

        async def attempt_one(addresses: frozenset[str]) -> _Result:
            with ExitStack() as mine:
                address = mine.enter_context(self._balancer.pick(addresses, failed))
                channel = mine.enter_context(self._connections.use(address))
                try:
                    with self._told(address):
                        result = await attempt(channel, deadline.remaining())
                except SaxError:
                    failed.add(address)
                    if failed >= addresses:
                        failed.clear()
                    raise
                held.push(mine.pop_all())
                return result

        return await with_retry(
            choose,
            attempt_one,
            codes=self._codes,
            deadline=deadline,
            backoff=Backoff(self._rng),
            sleep=self._driver.sleep,
            # A server that is gone, or that drains, sends its calls elsewhere at once.
            at_once=lambda error: error.code is grpc.StatusCode.UNAVAILABLE and bool(failed),
            # A server that says when to come again means itself: others are tried before.
            patient=lambda: not failed,
        )

    @contextmanager
    def _told(self, address: str = "") -> Iterator[None]:
        """Says what an error means for this model."""
        try:
            yield
        except ChannelClosedError as closed:
            if self._closed:
                raise CancelledError("the client is closed") from closed
            raise UnavailableError(str(closed)) from closed
        except SaxError as plain:
            error = plain
            if error.code is grpc.StatusCode.CANCELLED and not self._closed:
                error = _cut_off(error)
            if error.code is grpc.StatusCode.UNAVAILABLE and address:
                text = f"{self.model.full} at {address}: {error}"
                raise from_code(error.code, text) from plain
            raise error from plain.__cause__

    async def _addresses(self, timeout_s: float) -> frozenset[str]:
        if self._proxy:
            return frozenset([self._proxy])
        return await self._watching().wait(self._driver, timeout_s)

    def _watching(self) -> AddressWatch:
        with self._lock:
            if self._closed:
                raise CancelledError("the client is closed")
            if self._watch is None:
                # The watch has a thread of its own, whatever the driver is.
                self._watch = AddressWatch(
                    AdminLink(self._root(), self.model.cell_id, ThreadDriver(self._clock)),
                    self.model.full,
                    self._rng,
                    self._connections.purge,
                )
                weakref.finalize(self, self._watch.close, join=False)
            return self._watch


def _cut_off(error: SaxError) -> SaxError:
    """A server that ends with calls under way resets them, which gRPC calls CANCELLED."""
    return UnavailableError("the server ended") if str(error) in ("", "CANCELLED") else error
