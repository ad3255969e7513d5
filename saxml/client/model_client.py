"""Carries calls to the servers of one model: find, choose, try again."""

import random
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from saxml.client.address_watch import AddressWatch
from saxml.client.admin_link import AdminLink
from saxml.client.balancer import Balancer
from saxml.client.connections import ConnectionTable
from saxml.client.retry import (
    FAIL_FAST_SERVER_CODES,
    SERVER_CODES,
    Backoff,
    Deadline,
    with_retry,
)
from saxml.client.rpc import Procedure, Responses
from saxml.common.clock import Clock, SystemClock
from saxml.common.errors import (
    CancelledError,
    InvalidArgumentError,
    SaxError,
    UnavailableError,
    from_code,
    from_rpc_error,
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


class ModelClient:
    """A published model, called by name. Safe to use from many threads.

    Opening it contacts nobody: the first call starts a background watch of the model's addresses.
    `close`, or the end of a `with` block, stops it and all calls under way.
    """

    def __init__(
        self,
        model_id: str,
        root: Callable[[], str],
        options: ClientOptions = ClientOptions(),
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.model = parse_model(model_id)
        if options.num_conn <= 0:
            raise InvalidArgumentError(f"num_conn must be positive, not {options.num_conn}")
        self._root = root
        self._proxy = options.proxy
        self._codes = FAIL_FAST_SERVER_CODES if options.fail_fast else SERVER_CODES
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._balancer = Balancer(self._rng, options.num_conn)
        self._connections = ConnectionTable(self._clock)
        self._lock = threading.Lock()
        self._watch: AddressWatch | None = None
        self._closed = False
        # A forgotten client gives its thread and connections back when it is collected.
        weakref.finalize(self, self._connections.close)

    def __enter__(self) -> "ModelClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the watch and closes all connections; calls under way end with CANCELLED."""
        with self._lock:
            self._closed = True
            watch = self._watch
        if watch:
            watch.close()
        self._connections.close()

    def call(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> _Response:
        """Calls one of the servers, another one if need be, until the deadline; raises SaxError."""

        def attempt(channel: grpc.Channel, remaining_s: float) -> _Response:
            return procedure.call(channel, request, remaining_s)

        with ExitStack() as held:
            return self._retried(held, attempt, timeout_s)

    def stream(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> Generator[_Response, None, None]:
        """The same for a stream. Once an item has come, an error is final.

        A stream that is not read to its end is cancelled when the iterator is closed.
        """

        def attempt(
            channel: grpc.Channel, remaining_s: float
        ) -> tuple[_Response | None, Responses[_Response]]:
            responses = procedure.stream(channel, request, remaining_s)
            try:
                return next(responses, None), responses
            except BaseException:
                responses.cancel()
                raise

        with ExitStack() as held:
            first, responses = self._retried(held, attempt, timeout_s)
            held.callback(responses.cancel)
            if first is None:
                return
            with self._told():
                yield first
                yield from responses

    def _retried(
        self,
        held: ExitStack,
        attempt: Callable[[grpc.Channel, float], _Result],
        timeout_s: float,
    ) -> _Result:
        """Runs `attempt`; server and connection stay in `held` when it succeeds."""
        deadline = Deadline(self._clock, timeout_s)
        failed: set[str] = set()

        def choose() -> frozenset[str]:
            return self._addresses(deadline.remaining())

        def attempt_one(addresses: frozenset[str]) -> _Result:
            with ExitStack() as mine:
                address = mine.enter_context(self._balancer.pick(addresses, failed))
                channel = mine.enter_context(self._connections.use(address))
                try:
                    with self._told(address):
                        result = attempt(channel, deadline.remaining())
                except SaxError:
                    failed.add(address)
                    if failed >= addresses:
                        failed.clear()
                    raise
                held.push(mine.pop_all())
                return result

        return with_retry(
            choose,
            attempt_one,
            codes=self._codes,
            deadline=deadline,
            backoff=Backoff(self._rng),
            clock=self._clock,
            # A server that is gone, or that drains, sends its calls elsewhere at once.
            at_once=lambda error: error.code is grpc.StatusCode.UNAVAILABLE and bool(failed),
        )

    @contextmanager
    def _told(self, address: str = "") -> Iterator[None]:
        """Turns what gRPC raises into our errors."""
        try:
            yield
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if error.code is grpc.StatusCode.CANCELLED and not self._closed:
                error = _cut_off(error)
            if error.code is grpc.StatusCode.UNAVAILABLE and address:
                text = f"{self.model.full} at {address}: {error}"
                raise from_code(error.code, text) from rpc_error
            raise error from rpc_error
        except ValueError as error:  # the channel was closed under us
            if not self._closed:
                raise
            raise CancelledError("the client is closed") from error

    def _addresses(self, timeout_s: float) -> frozenset[str]:
        if self._proxy:
            return frozenset([self._proxy])
        with self._lock:
            if self._closed:
                raise CancelledError("the client is closed")
            if self._watch is None:
                self._watch = AddressWatch(
                    AdminLink(self._root(), self.model.cell_id),
                    self.model.full,
                    self._rng,
                    self._connections.purge,
                )
                weakref.finalize(self, self._watch.close, join=False)
            watch = self._watch
        return watch.wait(timeout_s)


def _cut_off(error: SaxError) -> SaxError:
    """A server that ends with calls under way resets them, which gRPC calls CANCELLED."""
    return UnavailableError("the server ended") if str(error) in ("", "CANCELLED") else error
