"""What is published: kept in state.proto before anybody is told, and in memory after.

Every change goes one way: a copy of the models is changed, the copy is written, then the
difference to what was known is applied. A copy that another process has written is applied alike.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Collection
from typing import Protocol

from saxml.admin import validate
from saxml.admin.published import Published
from saxml.admin.state import StateFile
from saxml.admin.validate import braced
from saxml.common.errors import (
    AlreadyExistsError,
    NotFoundError,
    SaxError,
    UnavailableError,
)
from saxml.common.names import CellId, ModelId
from saxml.proto import admin_pb2
from saxml.storage.base import ConflictError

_logger = logging.getLogger(__name__)
_Models = dict[str, admin_pb2.Model]


class Listener(Protocol):
    """Who acts on what is published."""

    def on_registry_change(self, models: Collection[str]) -> None:
        """These models were added, changed or removed; it is not waited for."""

    def is_being_unloaded(self, model: str) -> bool:
        """Whether a server is busy forgetting a model of this name."""


class Registry:
    """The published models of one cell, by full name in order of publication."""

    def __init__(self, cell: CellId, state: StateFile, listener: Listener) -> None:
        self.cell = cell
        self.models: dict[str, Published] = {}
        self._state = state
        self._listener = listener
        self._lock = asyncio.Lock()
        # Names that this process has unpublished, with the last number that watchers may know.
        self._unpublished: dict[str, int] = {}

    async def restore(self, held_until: float) -> None:
        """Takes over what state.proto says, and proves that it can be written.

        held_until: until then, on the manager's clock, the models are not given to new servers.
        """
        models = await asyncio.to_thread(self._state.load)
        await asyncio.to_thread(self._state.save, models)
        self._apply({m.model_id: m for m in models}, held_until)

    def get(self, model_id: ModelId) -> Published:
        """The model, or NotFoundError."""
        published = self.models.get(model_id.full)
        if published is None:
            raise NotFoundError(f"model {braced(model_id)} not found")
        return published

    def was_unpublished(self, model: str) -> bool:
        """Whether this process has unpublished a model of this name."""
        return model in self._unpublished

    async def publish(self, model: admin_pb2.Model) -> None:
        """Publishes a new model; it is in state.proto when this returns."""
        model_id = validate.check_model(self.cell, model)

        def change(models: _Models) -> None:
            if model_id.full in models:
                raise AlreadyExistsError(f"model {braced(model_id)} already exists")
            if self._listener.is_being_unloaded(model_id.full):
                raise UnavailableError(
                    f"model {braced(model_id)} is being unpublished, please retry later"
                )
            models[model_id.full] = _stored(model, secrets.token_bytes(16))

        await self._change(change)
        overrides = " ".join(f"{k}:[{v}]" for k, v in sorted(model.overrides.items()))
        _logger.info("Published model %s with overrides: map[%s]", braced(model_id), overrides)

    async def update(self, model: admin_pb2.Model) -> None:
        """Replaces a published model; overrides stay as they are unless some are given."""
        model_id = validate.check_model(self.cell, model)

        def change(models: _Models) -> None:
            old = self.get(model_id).proto
            validate.check_update(old, model)
            new = _stored(model, old.uuid)
            if not new.overrides:
                new.overrides.update(old.overrides)
            models[model_id.full] = new

        await self._change(change)
        _logger.info("Updated model %s", braced(model_id))

    async def unpublish(self, model_id: ModelId) -> None:
        """Removes a model; watchers are told at once."""

        def change(models: _Models) -> None:
            self.get(model_id)
            del models[model_id.full]

        await self._change(change)
        _logger.info("Unpublished model %s", braced(model_id))

    async def _change(self, change: Callable[[_Models], None]) -> None:
        # A caller that gives up does not tear a change apart.
        await asyncio.shield(asyncio.ensure_future(self._change_locked(change)))

    async def _change_locked(self, change: Callable[[_Models], None]) -> None:
        async with self._lock:
            models = {i: p.proto for i, p in self.models.items()}
            change(models)
            try:
                await asyncio.to_thread(self._state.save, list(models.values()))
            except ConflictError as error:
                await self._reload(error)
            except SaxError as error:
                _logger.error("Cannot save the state of the cell: %s", error)
                raise UnavailableError(f"cannot save the state of the cell: {error}") from error
            self._apply(models)

    async def _reload(self, error: ConflictError) -> None:
        _logger.error(
            "%s. Is there a second admin server for %s? Reading it again", error, self.cell.full
        )
        try:
            models = await asyncio.to_thread(self._state.load)
        except SaxError as unreadable:
            raise UnavailableError(f"cannot read the state of the cell: {unreadable}") from error
        self._apply({m.model_id: m for m in models})
        raise UnavailableError(
            "the state of the cell was changed by another admin server, please retry"
        ) from error

    def _apply(self, models: _Models, held_until: float = -math.inf) -> None:
        changed = [i for i in self.models if i not in models]
        for gone in changed:
            published = self.models.pop(gone)
            self._unpublished[gone] = published.watched.seqno
            published.close()
        for model_id, proto in models.items():
            old = self.models.get(model_id)
            if old is not None and (old.proto is proto or old.proto == proto):
                continue
            changed.append(model_id)
            if old is not None and old.proto.uuid == proto.uuid:
                old.replace(proto)
                continue
            # Numbers go on where a former model of this name ended, so that its watchers
            # are given a full set.
            seqno = self._unpublished.pop(model_id, -1) + 1
            if old is not None:
                seqno = old.watched.seqno + 1
                old.close()
            self.models[model_id] = Published(proto, first_seqno=seqno, held_until=held_until)
        self._listener.on_registry_change(changed)


def _stored(model: admin_pb2.Model, uuid: bytes) -> admin_pb2.Model:
    new = admin_pb2.Model()
    new.CopyFrom(model)
    new.uuid = uuid
    del new.method_names[:]
    return new
