"""Load, UpdateLoaded, Unload and WakeUp: queued on a server, with what follows from them."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

import grpc

from saxml.admin.backoff import wait_after
from saxml.admin.joined import Entry, JoinedServer
from saxml.admin.published import Published
from saxml.admin.validate import braced
from saxml.common import names
from saxml.common.clock import Clock
from saxml.common.errors import SaxError, from_rpc_error
from saxml.proto import common_pb2

# A server whose models are checked has usually nothing to do; one that takes longer than this is
# loading, and clients shall not wait for it.
CHECK_S = 1.0
WAKE_UP_TIMEOUT_S = 10.0
# After these nobody knows whether the server has done what it was told.
_UNCERTAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
)

_logger = logging.getLogger(__name__)


class Actions:
    """Queues actions.

    on_change is called with the server's address and the model's name whenever something about a
    replica has changed. ask is called when only the
    server itself can tell how it is. grace_s: how long clients have to learn that a replica is gone
    before it stops.
    """

    def __init__(
        self,
        clock: Clock,
        on_change: Callable[[str, str], None],
        ask: Callable[[JoinedServer], Awaitable[None]],
        grace_s: float,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._ask = ask
        self._grace_s = grace_s

    def load(self, server: JoinedServer, published: Published, *, hidden: bool = False) -> None:
        """Makes the server load the model; it counts as held from now on.

        hidden: clients are not told of it before it is ready.
        """
        entry = Entry(busy=1, hidden=hidden)
        server.entries[published.proto.model_id] = entry
        label = f"load of model {braced(published.id)} on server {server.address}"
        server.queue.put(label, functools.partial(self._load, server, published, entry))

    def hand_on(self, server: JoinedServer, published: Published) -> None:
        """Hands the access lists to a server that holds the model."""
        entry = server.entries[published.proto.model_id]
        entry.busy += 1
        entry.acls = published.acls
        self._put_update(server, published, self._hand_on, entry)

    def check(self, server: JoinedServer, published: Published) -> None:
        """Makes sure of the checkpoint of a model that the server had already."""
        entry = server.entries[published.proto.model_id]
        entry.busy += 1
        entry.updating = True
        self._put_update(server, published, self._check, entry)

    def replace(self, server: JoinedServer, published: Published) -> None:
        """Makes the server load the new checkpoint in place of the old; meanwhile clients are not
        sent there."""
        entry = server.entries[published.proto.model_id]
        self._leave(entry)
        entry.busy += 1
        entry.updating = entry.hidden = True
        self._put_update(server, published, self._replace, entry)

    def unload(self, server: JoinedServer, model: str) -> None:
        """Makes the server forget the model; it is no longer shown to clients from now on."""
        entry = server.entries[model]
        self._leave(entry)
        if entry.wanted:
            entry.wanted, entry.retries = False, 0
        entry.busy += 1
        label = f"unload of model {braced(names.parse_model(model))} on server {server.address}"
        server.queue.put(label, functools.partial(self._unload, server, model, entry))

    def wake_up(self, server: JoinedServer) -> None:
        """Makes a dormant server serve again."""
        server.queue.put(
            f"wake up of server {server.address}", functools.partial(self._wake_up, server)
        )

    def failed(
        self, server: JoinedServer, published: Published, reason: str, *, blame: bool = True
    ) -> None:
        """Takes a model off a server that could not load it, and remembers why.

        blame: False if neither the model nor the server could help it.
        """
        model = published.proto.model_id
        _logger.warning(
            "Failed to load model %s onto server %s: %s",
            braced(published.id),
            server.address,
            reason,
        )
        entry = server.entries[model]
        entry.status, entry.reason = common_pb2.FAILED, reason
        if blame:
            published.failures.record(server.address, reason, self._clock.monotonic())
        # A server answers a second Load of a model it knows without doing anything.
        self.unload(server, model)

    async def _load(self, server: JoinedServer, published: Published, entry: Entry) -> None:
        if entry.wanted:
            entry.attempted = True
            self._tell(entry, published)
            overrides = " ".join(f"{k}:{v}" for k, v in sorted(published.proto.overrides.items()))
            _logger.info(
                "Loading model %s onto server %s with overrides map[%s]",
                braced(published.id),
                server.address,
                overrides,
            )
            try:
                await server.modelet.load(published.proto)
            except grpc.RpcError as error:
                if from_rpc_error(error).code == grpc.StatusCode.UNAVAILABLE:
                    await self._ask(server)
                if entry.wanted:
                    self.failed(server, published, _reason(error), blame=not server.is_draining)
            else:
                self._loaded(server, published, entry)
                _logger.info("Loaded model %s onto server %s", braced(published.id), server.address)
        self._done(server, published.proto.model_id, entry)
        published.bell.ring()

    async def _hand_on(self, server: JoinedServer, published: Published, entry: Entry) -> None:
        if entry.wanted:
            entry.acls = published.acls
            try:
                await server.modelet.update(published.proto, with_checkpoint=False)
            except grpc.RpcError as error:
                entry.acls = None
                self._retry_later(server, entry, published, error)
            else:
                entry.reason, entry.retries = "", 0
        self._done(server, published.proto.model_id, entry)

    async def _check(self, server: JoinedServer, published: Published, entry: Entry) -> None:
        def too_long() -> None:
            entry.hidden = True
            server.touch(entry)
            self._on_change(server.address, published.proto.model_id)

        timer = asyncio.get_running_loop().call_later(CHECK_S, too_long)
        try:
            await self._update(server, published, entry)
        finally:
            timer.cancel()

    async def _replace(self, server: JoinedServer, published: Published, entry: Entry) -> None:
        await self._until_left(entry)
        await self._update(server, published, entry)

    async def _update(self, server: JoinedServer, published: Published, entry: Entry) -> None:
        uncertain = False
        if entry.wanted:
            if entry.hidden:
                entry.status = common_pb2.LOADING
            self._tell(entry, published)
            try:
                await server.modelet.update(published.proto, with_checkpoint=True)
            except grpc.RpcError as error:
                uncertain = from_rpc_error(error).code in _UNCERTAIN
                if not entry.wanted:
                    pass
                elif uncertain:
                    entry.checkpoint = entry.acls = None
                    self._retry_later(server, entry, published, error)
                else:
                    self.failed(server, published, _reason(error))
            else:
                entry.reason, entry.retries = "", 0
                if entry.hidden:
                    self._loaded(server, published, entry)
        entry.updating = False
        self._done(server, published.proto.model_id, entry)
        published.bell.ring()
        if uncertain:
            await self._ask(server)

    async def _unload(self, server: JoinedServer, model: str, entry: Entry) -> None:
        gone = True
        if entry.attempted:
            await self._until_left(entry)
            _logger.info(
                "Unloading model %s from server %s",
                braced(names.parse_model(model)),
                server.address,
            )
            try:
                await server.modelet.unload(model)
            except grpc.RpcError as error:
                if from_rpc_error(error).code != grpc.StatusCode.NOT_FOUND:
                    gone = False
                    self._note_retry(entry, f"cannot be unloaded: {_reason(error)}")
                    _logger.warning(
                        "Failed to unload model %s from server %s: %s",
                        model,
                        server.address,
                        entry.reason,
                    )
        if gone and server.entries.get(model) is entry:
            del server.entries[model]
        self._done(server, model, entry)

    async def _wake_up(self, server: JoinedServer) -> None:
        _logger.info("Waking up server %s", server.address)
        try:
            await server.modelet.wake_up(WAKE_UP_TIMEOUT_S)
        except grpc.RpcError as error:
            _logger.warning("Failed to wake up server %s: %s", server.address, _reason(error))

    def _put_update(
        self,
        server: JoinedServer,
        published: Published,
        update: Callable[[JoinedServer, Published, Entry], Awaitable[None]],
        entry: Entry,
    ) -> None:
        async def run() -> None:
            if entry.wanted:
                _logger.info(
                    "Updating model %s onto server %s", braced(published.id), server.address
                )
            await update(server, published, entry)

        server.queue.put(f"update of model {braced(published.id)} on server {server.address}", run)

    def _leave(self, entry: Entry) -> None:
        if entry.is_ready:
            entry.leave_at = self._clock.monotonic() + self._grace_s

    async def _until_left(self, entry: Entry) -> None:
        left = entry.leave_at - self._clock.monotonic()
        if left > 0:
            await asyncio.sleep(left)

    def _tell(self, entry: Entry, published: Published) -> None:
        entry.checkpoint, entry.acls = published.proto.checkpoint_path, published.acls

    def _loaded(self, server: JoinedServer, published: Published, entry: Entry) -> None:
        entry.status, entry.hidden = common_pb2.LOADED, False
        published.failures.succeeded(server.address)

    def _retry_later(
        self, server: JoinedServer, entry: Entry, published: Published, error: grpc.RpcError
    ) -> None:
        self._note_retry(entry, f"the last update failed: {_reason(error)}")
        _logger.warning(
            "Failed to update model %s on server %s: %s",
            braced(published.id),
            server.address,
            entry.reason,
        )

    def _note_retry(self, entry: Entry, reason: str) -> None:
        entry.reason = reason
        entry.retries += 1
        entry.retry_at = self._clock.monotonic() + wait_after(entry.retries)

    def _done(self, server: JoinedServer, model: str, entry: Entry) -> None:
        entry.busy -= 1
        server.touch(entry)
        self._on_change(server.address, model)


def _reason(error: grpc.RpcError) -> str:
    status: SaxError = from_rpc_error(error)
    return f"{status.code.name}: {status}"
