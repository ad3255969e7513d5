"""The connection to a cell's leading admin server."""

import re
import threading
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from saxml.client.rpc import LIST, Procedure, dial
from saxml.common.errors import (
    CancelledError,
    SaxError,
    UnavailableError,
    from_code,
    from_rpc_error,
)
from saxml.common.names import UNPLACED_TRAILER, CellId
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


def admin_error(error: grpc.RpcError) -> SaxError:
    """What an admin server said; a status inside the text counts when the outer one is UNKNOWN.

    One that stands by is UNAVAILABLE: the leader takes the same call.
    """
    plain = from_rpc_error(error)
    if plain.code is grpc.StatusCode.FAILED_PRECONDITION and _STANDS_BY.fullmatch(str(plain)):
        return UnavailableError(str(plain))
    if plain.code is grpc.StatusCode.UNKNOWN and (match := _WRAPPED.fullmatch(str(plain))):
        return from_code(_BY_NAME.get(match[2], plain.code), match[1])
    return plain


class AdminLink:
    """Finds the admin server in location.proto and keeps one connection to it.

    The file is read again whenever the connection fails, so the link follows a new leader.
    """

    def __init__(self, root: str, cell: CellId) -> None:
        self.cell = cell
        self._store = CellStore(root, cell)
        self._lock = threading.Lock()
        self._address = ""
        self._channel: grpc.Channel | None = None
        self._closed = False

    def call(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> _Response:
        """Calls the admin server once.

        Raises SaxError: FailedPreconditionError if the cell has no admin server or is not there,
        UnavailableError naming the address if nobody answers.
        """
        address, channel = self._connect()
        try:
            return procedure.call(channel, request, timeout_s)
        except grpc.RpcError as rpc_error:
            error = admin_error(rpc_error)
            if error.code is grpc.StatusCode.CANCELLED and self._was_dropped(channel):
                raise UnavailableError(f"lost the connection to {address}") from rpc_error
            if error.code is grpc.StatusCode.UNAVAILABLE:
                self._drop(channel)
                raise from_code(
                    error.code, f"admin server of {self.cell.full} at {address}: {error}"
                ) from rpc_error
            raise error from rpc_error
        except ValueError as error:  # the channel was closed under us
            if self._was_dropped(channel):
                raise UnavailableError(f"lost the connection to {address}") from error
            raise CancelledError("the client is closed") from error

    def why_unplaced(self, model_id: str, timeout_s: float) -> str:
        """Why a model lacks replicas, as the admin server puts it; "" if it does not say."""
        try:
            _, channel = self._connect()
            request = admin_pb2.ListRequest(model_id=model_id)
            return LIST.trailer(channel, request, timeout_s, UNPLACED_TRAILER)
        except (SaxError, grpc.RpcError, ValueError):
            return ""

    def check_leader(self) -> None:
        """Drops the connection if location.proto names another admin server by now."""
        address = self._store.admin_address()
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
            channel.close()

    def _connect(self) -> tuple[str, grpc.Channel]:
        with self._lock:
            if self._channel:
                return self._address, self._channel
        address = self._store.admin_address()
        with self._lock:
            if self._closed:
                raise CancelledError("the client is closed")
            if not self._channel:
                self._address, self._channel = address, dial(address, _DIAL_TIMEOUT_S)
            return self._address, self._channel

    def _was_dropped(self, channel: grpc.Channel) -> bool:
        """Whether another call found this channel broken and closed it."""
        with self._lock:
            return not self._closed and self._channel is not channel

    def _drop(self, channel: grpc.Channel) -> None:
        with self._lock:
            if self._channel is channel:
                self._channel = None
        channel.close()
