"""Load, Unload and UpdateLoaded: queued on a server, with what follows from their outcome."""

import functools
import logging
from collections.abc import Callable

import grpc

from saxml.admin.backoff import wait_after
from saxml.admin.joined import Entry, JoinedServer
from saxml.admin.published import Published
from saxml.admin.validate import braced
from saxml.common import names
from saxml.common.clock import Clock
from saxml.common.errors import from_rpc_error
from saxml.proto import common_pb2

_logger = logging.getLogger(__name__)


class Actions:
    """Queues actions; `on_change` is called whenever one of them has ended."""

    def __init__(self, clock: Clock, on_change: Callable[[], None]) -> None:
        self._clock = clock
        self._on_change = on_change

    def load(self, server: JoinedServer, published: Published) -> None:
        """Makes the server load the model; it counts as held from now on."""
        entry = Entry(busy=1)
        server.entries[published.proto.model_id] = entry
        label = f"load of model {braced(published.id)} on server {server.address}"
        server.queue.put(label, functools.partial(self._load, server, published, entry))

    def update(self, server: JoinedServer, published: Published, *, with_checkpoint: bool) -> None:
        """Hands changed settings to a server that holds the model."""
        entry = server.entries[published.proto.model_id]
        entry.busy += 1
        entry.update_due = False
        label = f"update of model {braced(published.id)} on server {server.address}"
        action = functools.partial(self._update, server, published, entry, with_checkpoint)
        server.queue.put(label, action)

    def unload(self, server: JoinedServer, model: str) -> None:
        """Makes the server forget the model; it is no longer shown to clients from now on."""
        entry = server.entries[model]
        entry.wanted = False
        entry.busy += 1
        label = f"unload of model {braced(names.parse_model(model))} on server {server.address}"
        server.queue.put(label, functools.partial(self._unload, server, model, entry))

    def failed(self, server: JoinedServer, published: Published, reason: str) -> None:
        """Takes a model off a server that could not load it, and remembers why."""
        model = published.proto.model_id
        _logger.warning(
            "Failed to load model %s onto server %s: %s",
            braced(published.id),
            server.address,
            reason,
        )
        entry = server.entries[model]
        entry.status, entry.reason = common_pb2.FAILED, reason
        published.failures.record(server.address, reason, self._clock.monotonic())
        # A server answers a second Load of a model it knows without doing anything.
        self.unload(server, model)

    async def _load(self, server: JoinedServer, published: Published, entry: Entry) -> None:
        if entry.wanted:
            entry.attempted = True
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
                if entry.wanted:
                    self.failed(server, published, _reason(error))
            else:
                entry.status = common_pb2.LOADED
                published.failures.succeeded(server.address)
                _logger.info("Loaded model %s onto server %s", braced(published.id), server.address)
        self._done(server, entry)
        published.bell.ring()

    async def _update(
        self, server: JoinedServer, published: Published, entry: Entry, with_checkpoint: bool
    ) -> None:
        if entry.wanted:
            _logger.info("Updating model %s onto server %s", braced(published.id), server.address)
            try:
                await server.modelet.update(published.proto, with_checkpoint=with_checkpoint)
            except grpc.RpcError as error:
                entry.update_due = True
                self._retry_later(entry, f"the last update failed: {_reason(error)}")
                _logger.warning(
                    "Failed to update model %s on server %s: %s",
                    braced(published.id),
                    server.address,
                    entry.reason,
                )
            else:
                entry.reason, entry.retries = "", 0
        self._done(server, entry)

    async def _unload(self, server: JoinedServer, model: str, entry: Entry) -> None:
        gone = True
        if entry.attempted:
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
                    self._retry_later(entry, f"cannot be unloaded: {_reason(error)}")
                    _logger.warning(
                        "Failed to unload model %s from server %s: %s",
                        model,
                        server.address,
                        entry.reason,
                    )
        if gone and server.entries.get(model) is entry:
            del server.entries[model]
        self._done(server, entry)

    def _retry_later(self, entry: Entry, reason: str) -> None:
        entry.reason = reason
        entry.retries += 1
        entry.retry_at = self._clock.monotonic() + wait_after(entry.retries)

    def _done(self, server: JoinedServer, entry: Entry) -> None:
        entry.busy -= 1
        server.touch(entry)
        self._on_change()


def _reason(error: grpc.RpcError) -> str:
    status = from_rpc_error(error)
    return f"{status.code.name}: {status}"
