"""A published model for threads."""

import random
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TypeVar

from google.protobuf.message import Message

from saxml.client.driver import ThreadDriver, iterate, run
from saxml.client.model_core import ClientOptions, ModelCore
from saxml.client.rpc import Procedure
from saxml.common.clock import Clock, SystemClock

__all__ = ["ClientOptions", "ModelClient"]

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_DEFAULT_OPTIONS = ClientOptions()


class ModelClient:
    """A published model, called by name. Safe to use from many threads.

    Opening it contacts nobody: the first call starts a background watch of the model's addresses.
    `close`, or the end of a `with` block, stops it and all calls under way.
    """

    def __init__(
        self,
        model_id: str,
        root: Callable[[], str],
        options: ClientOptions = _DEFAULT_OPTIONS,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.core = ModelCore(model_id, root, ThreadDriver(clock), options, clock=clock, rng=rng)
        self.model = self.core.model

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
        self.core.close()

    def call(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> _Response:
        """Calls one of the servers, another one if need be, until the deadline; raises SaxError."""
        return run(self.core.call(procedure, request, timeout_s))

    def stream(
        self, procedure: Procedure[_Request, _Response], request: _Request, timeout_s: float
    ) -> Generator[_Response, None, None]:
        """The same for a stream. Once an item has come, an error is final.

        A stream that is not read to its end is cancelled when the iterator is closed.
        """
        return iterate(self.core.stream(procedure, request, timeout_s))
