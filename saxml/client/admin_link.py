"""The connection to a cell's leading admin server."""

import re
import threading
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from saxml.client.driver import Channel, ChannelClosedError, Driver
from saxml.client.rpc import LIST, Procedure
from saxml.common import list_detail
from saxml.common.errors import (
    CancelledError,
    SaxError,
    UnavailableError,
    from_code,
)
from saxml.common.names import CellId
from saxml.proto import admin_pb2
from saxml.storage.cell import CellStore

_DIAL_TIMEOUT_S = 5.0

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

# Admin servers written in Go send UNKNOWN and put the status they mean behind the text.
_WRAPPED = re.compile(r"(.*?): rpc error: code = (\w+) desc = .*", re.DOTALL)
# What an admin server says that does not lead the cell (any more).
_STANDS_BY = re.compile(r"this admin server stands by\b.*", re.DOTALL)


def code_name(code: grpc.StatusCode) -> str:
    """A status as Go spells it: NotFound."""
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return "".join(word.capitalize() for word in code.name.split("_")).replace("Ok", "OK")


_BY_NAME = {code_name(code): code for code in grpc.StatusCode}


def admin_error(plain: SaxError) -> SaxError:
    """What an admin server said; a status inside the text counts when the outer one is UNKNOWN.

    One that stands by is UNAVAILABLE: the leader takes the same call.
    """
    if plain.code is grpc.StatusCode.FAILED_PRECONDITION and _STANDS_BY.fullmatch(str(plain)):
        return UnavailableError(str(plain))
    if plain.code is grpc.StatusCode.UNKNOWN and (match := _WRAPPED.fullmatch(str(plain))):
        return from_code(_BY_NAME.get(match[2], plain.code), match[1])
    return plain


class AdminLink:
    """Finds the admin server in location.proto and keeps one connection to it.

    The file is read again whenever the connection fails, so the link follows a new leader.
    """

    def __init__(self, root: str, cell: CellId, driver: Driver) -> None:
        self.cell = cell
        self._root = root
        self._driver = driver
        # Reentrant: close() may be called by the garbage collector, anywhere.
        self._lock = threading.RLock()
        self._address = ""
        self._channel: Channel | None = None
        self._closed = False

    async def call(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> _Response:
        """Calls the admin server once.

        Raises SaxError: FailedPreconditionError if the cell has no admin server or is not there,
        UnavailableError naming the address if nobody answers, or if it does not lead the cell.
        """
        response, _ = await self.call_with_trailers(procedure, request, timeout_s)
        return response

    async def call_with_trailers(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> tuple[_Response, dict[str, str | bytes]]:
        """The same, with what the admin server says beside its answer."""
        address, channel = await self._connect()
        try:
            return await self._driver.unary(channel, procedure, request, timeout_s)
        except ChannelClosedError as closed:
            if self._was_dropped(channel):
                raise UnavailableError(f"lost the connection to {address}") from closed
            raise CancelledError("the client is closed") from closed
        except SaxError as plain:
            error = admin_error(plain)
            if error.code is grpc.StatusCode.CANCELLED and self._was_dropped(channel):
                raise UnavailableError(f"lost the connection to {address}") from plain
            if error.code is grpc.StatusCode.UNAVAILABLE:
                self._drop(channel)
                raise from_code(
                    error.code, f"admin server of {self.cell.full} at {address}: {error}"
                ) from plain
            raise error from plain

    async def address(self) -> str:
        """Where the admin server listens, as location.proto says."""
        return await self._driver.blocking(self._read_address)

    async def why_unplaced(self, model_id: str, timeout_s: float) -> str:
        """Why a model lacks replicas, as the admin server puts it; "" if it does not say."""
        try:
            response = await self.call(LIST, admin_pb2.ListRequest(model_id=model_id), timeout_s)
        except SaxError:
            return ""
        detail = list_detail.found(response).get(model_id)
        return detail.why if detail else ""

    async def check_leader(self) -> None:
        """Drops the connection if location.proto names another admin server by now."""
        address = await self.address()
        with self._lock:
            channel = self._channel if address != self._address else None
        if channel:
            self._drop(channel)

    def close(self) -> None:
        """Ends calls under way with CANCELLED."""
        with self._lock:
            self._closed = True
            channel, self._channel = self._channel, None
        if channel:
            self._driver.close(channel)

    async def _connect(self) -> tuple[str, Channel]:
        with self._lock:
            if self._channel:
                return self._address, self._channel
        address = await self.address()
        with self._lock:
            if self._closed:
                raise CancelledError("the client is closed")
            if not self._channel:
                self._address, self._channel = (
                    address,
                    self._driver.dial(address, _DIAL_TIMEOUT_S),
                )
            return self._address, self._channel

    def _was_dropped(self, channel: Channel) -> bool:
        """Whether another call found this channel broken and closed it."""
        with self._lock:
            return not self._closed and self._channel is not channel

    def _drop(self, channel: Channel) -> None:
        with self._lock:
            if self._channel is channel:
                self._channel = None
        self._driver.close(channel)

    def _read_address(self) -> str:
        return CellStore(self._root, self.cell).admin_address()


def trailer_text(trailers: dict[str, str | bytes], name: str) -> str:
    """A trailer of an answer, "" if there is none."""
    found = trailers.get(name, "")
    return found.decode(errors="replace") if isinstance(found, bytes) else found
