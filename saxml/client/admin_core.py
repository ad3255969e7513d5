"""What the admin server of a cell can be asked for."""

import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from saxml.client.address_set import AddressChange, AddressSet
from saxml.client.address_watch import POLL_S
from saxml.client.admin_link import AdminLink, trailer_text
from saxml.client.driver import Driver
from saxml.client.retry import ADMIN_CODES, DEFAULT_TIMEOUT_S, Backoff, Deadline, with_retry
from saxml.client.rpc import (
    LIST,
    PUBLISH,
    STATS,
    UNPUBLISH,
    UPDATE,
    WAIT_FOR_READY,
    WATCH_LOC,
    Procedure,
)
from saxml.common import list_detail
from saxml.common.clock import Clock, SystemClock
from saxml.common.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    NotFoundError,
)
from saxml.common.names import SERVERS_TRAILER, CellId
from saxml.proto import admin_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True)
class ModelState:
    """A published model and how far it is."""

    published: admin_pb2.PublishedModel
    # Replicas that serve, and those of them that serve the published checkpoint; None if the admin
    # server does not say.
    ready: int | None
    current: int | None
    # Why replicas have no place, or keep a former checkpoint; "" if that is not said.
    why: str


class AdminCore:
    """Calls the admin server of one cell, wherever it is by now; the driver says how to wait.

    Every method takes `timeout_s`, raises SaxError, and tries again until then while the admin
    server cannot be reached (UNAVAILABLE), is overloaded (RESOURCE_EXHAUSTED), or does not lead.
    """

    def __init__(
        self,
        root: str,
        cell: CellId,
        driver: Driver,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.cell = cell
        self._driver = driver
        self._link = AdminLink(root, cell, driver)
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()

    def close(self) -> None:
        """Closes the connection; calls under way end with CANCELLED."""
        self._link.close()

    async def publish(self, model: admin_pb2.Model, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Publishes a model: id, path, checkpoint, number of replicas, overrides.

        A name that is still being unpublished is waited for.
        """
        tries = _Tries()
        try:
            await self._call(PUBLISH, admin_pb2.PublishRequest(model=model), timeout_s, tries)
        except AlreadyExistsError:
            # The reply to an earlier try may have been lost.
            if tries.count == 1:
                raise
            listed = await self.list_model(model.model_id, timeout_s)
            if not _same(listed.model, model):
                raise

    async def update(self, model: admin_pb2.Model, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Replaces the definition of a published model by `model`, as a whole."""
        await self._call(UPDATE, admin_pb2.UpdateRequest(model=model), timeout_s)

    async def change(
        self,
        model_id: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        model_path: str | None = None,
        checkpoint_path: str | None = None,
        num_replicas: int | None = None,
    ) -> None:
        """Changes what is given of a published model; the rest of its definition stays."""
        deadline = Deadline(self._clock, timeout_s)
        model = (await self.list_model(model_id, timeout_s)).model
        if model_path is not None:
            model.model_path = model_path
        if checkpoint_path is not None:
            model.checkpoint_path = checkpoint_path
        if num_replicas is not None:
            model.requested_num_replicas = num_replicas
        await self.update(model, deadline.remaining())

    async def unpublish(self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Takes a model away from its servers."""
        tries = _Tries()
        try:
            await self._call(
                UNPUBLISH, admin_pb2.UnpublishRequest(model_id=model_id), timeout_s, tries
            )
        except NotFoundError:
            if tries.count == 1:
                raise

    async def list_model(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> admin_pb2.PublishedModel:
        """One published model; NotFoundError if there is none of that name."""
        models = await self._list(model_id, timeout_s)
        if not models:
            raise NotFoundError(f"model {model_id} not found")
        return models[0]

    async def list_models(
        self, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[admin_pb2.PublishedModel]:
        """All published models, sorted by name."""
        return sorted(await self._list("", timeout_s), key=lambda m: m.model.model_id)

    async def model_state(self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> ModelState:
        """One published model, how many of its replicas serve, and why others do not."""
        states = await self._states(model_id, timeout_s)
        if not states:
            raise NotFoundError(f"model {model_id} not found")
        return states[0]

    async def model_states(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[ModelState]:
        """All published models, sorted by name, in one call."""
        states = await self._states("", timeout_s)
        return sorted(states, key=lambda state: state.published.model.model_id)

    async def servers(
        self, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> tuple[admin_pb2.StatsResponse, dict[str, int] | None]:
        """The model servers of the cell by kind, as stats() gives them, and how many of them are
        Active, Draining, ... (None if the admin server does not say)."""
        request = admin_pb2.StatsRequest()
        response, trailers = await self._call_with_trailers(STATS, request, timeout_s)
        if SERVERS_TRAILER not in trailers:
            return response, None
        items = (item.partition("=") for item in trailer_text(trailers, SERVERS_TRAILER).split(","))
        return response, {state: int(count) for state, _, count in items if count.isdecimal()}

    async def address(self) -> str:
        """Where the admin server listens, as location.proto says."""
        return await self._link.address()

    async def stats(
        self, model_id: str = "", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> admin_pb2.StatsResponse:
        """Model servers by chip, and how many can serve which model path; "" is the whole cell."""
        return await self._call(STATS, admin_pb2.StatsRequest(model_id=model_id), timeout_s)

    async def wait_for_ready(
        self, model_id: str, num_replicas: int = 1, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Waits until so many replicas are loaded; CancelledError if the model is unpublished."""
        request = admin_pb2.WaitForReadyRequest(model_id=model_id, num_replicas=num_replicas)
        await self._call(WAIT_FOR_READY, request, timeout_s)

    async def get_acls(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> tuple[str, dict[str, str] | None]:
        """The ACL for administering a model, and those of its methods (None: never set)."""
        model = (await self.list_model(model_id, timeout_s)).model
        return model.admin_acl, dict(model.acls.items) if model.HasField("acls") else None

    async def set_acl(
        self,
        model_id: str,
        acl: str,
        method: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Sets a method's ACL, or, without a method, that for administering; "" removes it."""
        deadline = Deadline(self._clock, timeout_s)
        model = (await self.list_model(model_id, timeout_s)).model
        if method is None:
            model.admin_acl = acl
        elif acl:
            model.acls.items[method] = acl
        elif method in model.acls.items:
            del model.acls.items[method]
        await self.update(model, deadline.remaining())

    async def watch(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AsyncGenerator[AddressChange, None]:
        """Changes of the addresses that serve a model, for as long as they are asked for.

        Ends with an error: NotFoundError once the model is not published (any more), or when the
        admin server has been away for `timeout_s`.
        """
        known = AddressSet()
        while True:
            request = known.request(model_id)
            try:
                response = await self._call(WATCH_LOC, request, timeout_s, poll_s=POLL_S)
            except DeadlineExceededError:
                await self._link.check_leader()
                continue
            yield known.apply(response)

    async def _states(self, model_id: str, timeout_s: float) -> list[ModelState]:
        response = await self._call(LIST, admin_pb2.ListRequest(model_id=model_id), timeout_s)
        details = list_detail.found(response)
        states = []
        for published in response.published_models:
            detail = details.get(published.model.model_id)
            if detail is None:
                states.append(ModelState(published, None, None, ""))
            else:
                states.append(ModelState(published, detail.ready, detail.current, detail.why))
        return states

    async def _list(self, model_id: str, timeout_s: float) -> list[admin_pb2.PublishedModel]:
        response = await self._call(LIST, admin_pb2.ListRequest(model_id=model_id), timeout_s)
        return [*response.published_models]

    async def _call(
        self,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
        tries: "_Tries | None" = None,
        poll_s: float | None = None,
    ) -> _Response:
        response, _ = await self._call_with_trailers(procedure, request, timeout_s, tries, poll_s)
        return response

    async def _call_with_trailers(
        self,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
        tries: "_Tries | None" = None,
        poll_s: float | None = None,
    ) -> tuple[_Response, dict[str, str | bytes]]:
        deadline = Deadline(self._clock, timeout_s)

        async def attempt(_: None) -> tuple[_Response, dict[str, str | bytes]]:
            if tries:
                tries.count += 1
            try:
                return await self._link.call_with_trailers(
                    procedure, request, poll_s or deadline.remaining()
                )
            except DeadlineExceededError as error:
                raise DeadlineExceededError(
                    f"admin server of {self.cell.full}: no answer in {timeout_s:.3g} s ({error})"
                ) from error

        async def choose() -> None:
            return None

        return await with_retry(
            choose,
            attempt,
            codes=ADMIN_CODES,
            deadline=deadline,
            backoff=Backoff(self._rng),
            sleep=self._driver.sleep,
        )


class _Tries:
    """How often a call was made."""

    count = 0


def _same(published: admin_pb2.Model, wanted: admin_pb2.Model) -> bool:
    return (
        published.model_path == wanted.model_path
        and published.checkpoint_path == wanted.checkpoint_path
        and published.requested_num_replicas == wanted.requested_num_replicas
        and dict(published.overrides) == dict(wanted.overrides)
    )


def new_model(
    model_id: str,
    model_path: str,
    checkpoint_path: str,
    num_replicas: int,
    overrides: Mapping[str, str] | None = None,
) -> admin_pb2.Model:
    """The definition of a model to publish; overrides are JSON values by constant's name."""
    return admin_pb2.Model(
        model_id=model_id,
        model_path=model_path,
        checkpoint_path=checkpoint_path,
        requested_num_replicas=num_replicas,
        overrides=overrides,
    )
