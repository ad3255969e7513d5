"""What the admin server of a cell can be asked for."""

import random
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TypeVar

from google.protobuf.message import Message

from saxml.client.address_set import AddressChange, AddressSet
from saxml.client.address_watch import POLL_S
from saxml.client.admin_link import AdminLink
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
from saxml.common.clock import Clock, SystemClock
from saxml.common.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    NotFoundError,
)
from saxml.common.names import CellId
from saxml.proto import admin_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class AdminClient:
    """Calls the admin server of one cell, wherever it is by now.

        with AdminClient("/tmp/sax-root", parse_cell("/sax/test")) as admin:
            admin.publish(admin_pb2.Model(model_id="/sax/test/lm", ...))

    Every method takes `timeout_s`, raises SaxError, and tries again until then while the admin
    server cannot be reached (UNAVAILABLE) or is overloaded (RESOURCE_EXHAUSTED).
    """

    def __init__(
        self,
        root: str,
        cell: CellId,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.cell = cell
        self._link = AdminLink(root, cell)
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls under way end with CANCELLED."""
        self._link.close()

    def publish(self, model: admin_pb2.Model, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Publishes a model: id, path, checkpoint, number of replicas, overrides.

        A name that is still being unpublished is waited for.
        """
        tries = _Tries()
        try:
            self._call(PUBLISH, admin_pb2.PublishRequest(model=model), timeout_s, tries)
        except AlreadyExistsError:
            # The reply to an earlier try may have been lost.
            if tries.count == 1 or not _same(
                self.list_model(model.model_id, timeout_s).model, model
            ):
                raise

    def update(self, model: admin_pb2.Model, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Replaces the definition of a published model by `model`, as a whole."""
        self._call(UPDATE, admin_pb2.UpdateRequest(model=model), timeout_s)

    def unpublish(self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Takes a model away from its servers."""
        tries = _Tries()
        try:
            self._call(UNPUBLISH, admin_pb2.UnpublishRequest(model_id=model_id), timeout_s, tries)
        except NotFoundError:
            if tries.count == 1:
                raise

    def list_model(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> admin_pb2.PublishedModel:
        """One published model; NotFoundError if there is none of that name."""
        models = self._list(model_id, timeout_s)
        if not models:
            raise NotFoundError(f"model {model_id} not found")
        return models[0]

    def list_models(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[admin_pb2.PublishedModel]:
        """All published models, sorted by name."""
        return sorted(self._list("", timeout_s), key=lambda m: m.model.model_id)

    def why_unplaced(self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> str:
        """Why a model has fewer replicas than asked for; "" if the admin server does not say."""
        return self._link.why_unplaced(model_id, timeout_s)

    def stats(
        self, model_id: str = "", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> admin_pb2.StatsResponse:
        """Model servers by chip, and how many can serve which model path; "" is the whole cell."""
        return self._call(STATS, admin_pb2.StatsRequest(model_id=model_id), timeout_s)

    def wait_for_ready(
        self, model_id: str, num_replicas: int = 1, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Waits until so many replicas are loaded; CancelledError if the model is unpublished."""
        request = admin_pb2.WaitForReadyRequest(model_id=model_id, num_replicas=num_replicas)
        self._call(WAIT_FOR_READY, request, timeout_s)

    def get_acls(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> tuple[str, dict[str, str] | None]:
        """The ACL for administering a model, and those of its methods (None: never set)."""
        model = self.list_model(model_id, timeout_s).model
        return model.admin_acl, dict(model.acls.items) if model.HasField("acls") else None

    def set_acl(
        self,
        model_id: str,
        acl: str,
        method: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Sets a method's ACL, or, without a method, that for administering; "" removes it."""
        deadline = Deadline(self._clock, timeout_s)
        model = self.list_model(model_id, timeout_s).model
        if method is None:
            model.admin_acl = acl
        elif acl:
            model.acls.items[method] = acl
        elif method in model.acls.items:
            del model.acls.items[method]
        self.update(model, deadline.remaining())

    def watch(self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Iterator[AddressChange]:
        """Changes of the addresses that serve a model, for as long as they are asked for.

        Ends with an error: NotFoundError once the model is not published (any more), or when the
        admin server has been away for `timeout_s`.
        """
        known = AddressSet()
        while True:
            request = known.request(model_id)
            try:
                response = self._call(WATCH_LOC, request, timeout_s, poll_s=POLL_S)
            except DeadlineExceededError:
                self._link.check_leader()
                continue
            yield known.apply(response)

    def _list(self, model_id: str, timeout_s: float) -> list[admin_pb2.PublishedModel]:
        response = self._call(LIST, admin_pb2.ListRequest(model_id=model_id), timeout_s)
        return [*response.published_models]

    def _call(
        self,
        procedure: Procedure[_Request, _Response],
        request: _Request,
        timeout_s: float,
        tries: "_Tries | None" = None,
        poll_s: float | None = None,
    ) -> _Response:
        deadline = Deadline(self._clock, timeout_s)

        def attempt(_: None) -> _Response:
            if tries:
                tries.count += 1
            try:
                return self._link.call(procedure, request, poll_s or deadline.remaining())
            except DeadlineExceededError as error:
                raise DeadlineExceededError(
                    f"admin server of {self.cell.full}: no answer in {timeout_s:.3g} s ({error})"
                ) from error

        return with_retry(
            lambda: None,
            attempt,
            codes=ADMIN_CODES,
            deadline=deadline,
            backoff=Backoff(self._rng),
            clock=self._clock,
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
