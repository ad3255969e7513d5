"""The admin server of a cell, for threads."""

import random
from collections.abc import Generator
from types import TracebackType

from saxml.client.address_set import AddressChange
from saxml.client.admin_core import AdminCore, ModelState, new_model
from saxml.client.driver import ThreadDriver, iterate, run
from saxml.client.retry import DEFAULT_TIMEOUT_S
from saxml.common.clock import Clock, SystemClock
from saxml.common.names import CellId
from saxml.proto import admin_pb2

__all__ = ["AdminClient", "ModelState", "new_model"]


class AdminClient:
    """Calls the admin server of one cell, wherever it is by now.

        with AdminClient("/tmp/sax-root", parse_cell("/sax/test")) as admin:
            admin.publish(admin_pb2.Model(model_id="/sax/test/lm", ...))

    Every method takes `timeout_s`, raises SaxError, and tries again until then while the admin
    server cannot be reached (UNAVAILABLE), is overloaded (RESOURCE_EXHAUSTED), or does not lead.
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
        clock = clock or SystemClock()
        self._core = AdminCore(root, cell, ThreadDriver(clock), clock=clock, rng=rng)

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
        self._core.close()

    def publish(self, model: admin_pb2.Model, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Publishes a model: id, path, checkpoint, number of replicas, overrides.

        A name that is still being unpublished is waited for.
        """
        run(self._core.publish(model, timeout_s))

    def update(self, model: admin_pb2.Model, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Replaces the definition of a published model by `model`, as a whole."""
        run(self._core.update(model, timeout_s))

    def change(
        self,
        model_id: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        model_path: str | None = None,
        checkpoint_path: str | None = None,
        num_replicas: int | None = None,
    ) -> None:
        """Changes what is given of a published model; the rest of its definition stays."""
        run(
            self._core.change(
                model_id,
                timeout_s,
                model_path=model_path,
                checkpoint_path=checkpoint_path,
                num_replicas=num_replicas,
            )
        )

    def unpublish(self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Takes a model away from its servers."""
        run(self._core.unpublish(model_id, timeout_s))

    def list_model(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> admin_pb2.PublishedModel:
        """One published model; NotFoundError if there is none of that name."""
        return run(self._core.list_model(model_id, timeout_s))

    def list_models(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[admin_pb2.PublishedModel]:
        """All published models, sorted by name."""
        return run(self._core.list_models(timeout_s))

    def model_state(self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> ModelState:
        """One published model, how many of its replicas serve, and why others do not."""
        return run(self._core.model_state(model_id, timeout_s))

    def model_states(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[ModelState]:
        """All published models, sorted by name, in one call."""
        return run(self._core.model_states(timeout_s))

    def stats(
        self, model_id: str = "", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> admin_pb2.StatsResponse:
        """Model servers by chip, and how many can serve which model path; "" is the whole cell."""
        return run(self._core.stats(model_id, timeout_s))

    def servers(
        self, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> tuple[admin_pb2.StatsResponse, dict[str, int] | None]:
        """The model servers of the cell by kind, as stats() gives them, and how many of them are
        Active, Draining, ... (None if the admin server does not say)."""
        return run(self._core.servers(timeout_s))

    def address(self) -> str:
        """Where the admin server listens, as location.proto says."""
        return run(self._core.address())

    def wait_for_ready(
        self, model_id: str, num_replicas: int = 1, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Waits until so many replicas are loaded; CancelledError if the model is unpublished."""
        run(self._core.wait_for_ready(model_id, num_replicas, timeout_s))

    def get_acls(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> tuple[str, dict[str, str] | None]:
        """The ACL for administering a model, and those of its methods (None: never set)."""
        return run(self._core.get_acls(model_id, timeout_s))

    def set_acl(
        self,
        model_id: str,
        acl: str,
        method: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Sets a method's ACL, or, without a method, that for administering; "" removes it."""
        run(self._core.set_acl(model_id, acl, method, timeout_s))

    def watch(
        self, model_id: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Generator[AddressChange, None, None]:
        """Changes of the addresses that serve a model, for as long as they are asked for.

        Ends with an error: NotFoundError once the model is not published (any more), or when the
        admin server has been away for `timeout_s`.
        """
        return iterate(self._core.watch(model_id, timeout_s))
