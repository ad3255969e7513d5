"""Keeps a model server joined to its cell.

joiner = Joiner(CellStore(root, cell), JoinRequest(address=..., model_server=...), clock)
joiner.start()
...
joiner.stop()
"""

import logging
import random
import threading
from typing import Any

import grpc

from saxml.common.clock import Clock
from saxml.common.errors import SaxError, UnavailableError, from_rpc_error
from saxml.proto import admin_pb2, admin_pb2_grpc
from saxml.storage.cell import CellStore

# A Join that changes nothing tells the admin server that this server is still there. An admin
# server that was restarted gives servers a little longer than this to come back.
HEARTBEAT_S = 10.0
# After location.proto could not be looked at for another admin server.
LOOK_AGAIN_S = 2.0
# The admin server calls back before it answers: 10 s to connect, 5 s to ask.
JOIN_TIMEOUT_S = 20.0
# A Join that takes longer may be one that is never answered.
PATIENCE_S = 1.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0
# A reason for waiting that stays the same is repeated in the log this often.
REPEAT_LOG_S = 60.0

_logger = logging.getLogger(__name__)
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def next_retry(pause_s: float) -> float:
    """The pause after one of `pause_s` (0: the first) has not helped."""
    return min(LONGEST_RETRY_S, max(FIRST_RETRY_S, pause_s * 1.6))


class Joiner:
    """Joins at once, whenever the cell has another admin server, and every HEARTBEAT_S.

    Whatever goes wrong is logged and tried again, for ever.
    """

    def __init__(
        self,
        cell: CellStore,
        request: admin_pb2.JoinRequest,
        clock: Clock,
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._cell = cell
        self._request = request
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="join", daemon=True)
        self._lock = threading.Lock()
        self._call: Any = None
        self._channel: grpc.Channel | None = None
        self._address = ""
        # The admin server that has taken us in, for the log.
        self._joined = ""
        self._waiting_for = ""
        self._logged_at = 0.0

    def start(self) -> None:
        """Starts to join, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Sends no further Join; the admin server notices the absence by itself."""
        self._stop.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()
        if self._thread.is_alive():
            self._thread.join()
        self._hang_up()

    def leave(self, timeout_s: float) -> None:
        """Stops joining and tells the admin server that nothing can be loaded here any more.

        A Join with other model paths makes it ask for the status at once, in which the models of a
        server that drains are UNLOADING. An admin server that cannot be reached finds out by
        itself.
        """
        self.stop()
        farewell = admin_pb2.JoinRequest()
        farewell.CopyFrom(self._request)
        farewell.model_server.ClearField("servable_model_paths")
        try:
            with grpc.insecure_channel(self._cell.admin_address(), options=_OPTIONS) as channel:
                stub: Any = admin_pb2_grpc.AdminStub(channel)
                stub.Join(farewell, timeout=timeout_s)
        except (SaxError, grpc.RpcError) as error:
            _logger.warning("Could not take leave of %s: %s", self._cell.cell.full, error)

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.is_set():
            try:
                address = self._cell.admin_address()
                self._join(address)
            except SaxError as error:
                self._note_failure(error)
                pause = next_retry(pause)
                self._stop.wait(pause * random.uniform(0.8, 1.2))
            except Exception:
                _logger.exception("Joining failed in an unexpected way; trying again")
                self._stop.wait(LONGEST_RETRY_S)
            else:
                self._note_success(address)
                pause = 0.0
                self._wait_for_next(address)

    def _wait_for_next(self, address: str) -> None:
        """Returns when the next heartbeat is due, or when the admin server is another one."""
        due = self._clock.monotonic() + self._heartbeat_s * random.uniform(0.8, 1.0)
        while (left := due - self._clock.monotonic()) > 0:
            try:
                self._cell.wait_for_other_location(address, left, self._stop)
                return
            except SaxError as error:
                # The admin server we know may well be there still: the heartbeat goes on.
                _logger.warning("Cannot look for a new admin server: %s", error)
                if self._stop.wait(min(left, LOOK_AGAIN_S)):
                    return

    def _join(self, address: str) -> None:
        if address != self._address or self._channel is None:
            self._hang_up()
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
            self._address = address
        stub: Any = admin_pb2_grpc.AdminStub(self._channel)
        with self._lock:
            if self._stop.is_set():
                return
            call = self._call = stub.Join.future(self._request, timeout=JOIN_TIMEOUT_S)
        try:
            self._give_up_if_moved(call, address)
            call.result()
        except grpc.FutureCancelledError:
            if self._stop.is_set():
                return
            self._hang_up()
            raise UnavailableError(
                f"{address} has not answered, and another admin server leads by now"
            ) from None
        except grpc.RpcError as error:
            # Dial anew next time: the admin server may have moved or may just have come back.
            self._hang_up()
            raise from_rpc_error(error) from error
        finally:
            with self._lock:
                self._call = None

    def _give_up_if_moved(self, call: Any, address: str) -> None:
        """Returns when the call has ended; cancels it if it takes long and the cell has another
        admin server: this one may be frozen."""
        done = threading.Event()
        call.add_done_callback(lambda _: done.set())
        if done.wait(PATIENCE_S):
            return
        try:
            self._cell.wait_for_other_location(address, JOIN_TIMEOUT_S, done)
        except SaxError:
            return  # nobody knows; the call has its deadline
        if not done.is_set():
            call.cancel()

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _note_success(self, address: str) -> None:
        if self._stop.is_set():
            return
        if self._joined != address:
            _logger.info("Joined %s", address)
        self._joined, self._waiting_for = address, ""

    def _note_failure(self, error: SaxError) -> None:
        self._joined = ""
        now = self._clock.monotonic()
        reason = f"{error.code.name}: {error}"
        if reason == self._waiting_for and now - self._logged_at < REPEAT_LOG_S:
            return
        where = f" (admin server {self._address})" if self._address else ""
        _logger.warning("Waiting to join %s%s: %s", self._cell.cell.full, where, reason)
        self._waiting_for, self._logged_at = reason, now
