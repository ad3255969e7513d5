"""What a model server needs of a loaded language model, whatever computes it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from saxml.common import errors
from saxml.engine.gradient import Gradient
from saxml.engine.heartbeat import Stall
from saxml.engine.metrics import EngineMetrics, Gauges
from saxml.proto import common_pb2, lm_pb2
from saxml.server.stats import MethodStats

# Called with what ends a request early; the transport has it run when the client goes away.
OnCancel = Callable[[Callable[[], None]], None]


class Servable(Protocol):
    """Thread-safe; calls block until their answer is there. Deadlines are on time.monotonic's
    clock. Errors are SaxErrors."""

    @property
    def stats(self) -> Mapping[str, MethodStats]:
        """The methods that are offered, by name, with what they have served."""

    @property
    def failure(self) -> errors.SaxError | None:
        """Why it cannot go on, if it cannot; having been unloaded is no failure."""

    @property
    def stall(self) -> Stall | None:
        """What it is at for too long, if it is."""

    @property
    def metrics(self) -> EngineMetrics:
        """What it has served."""

    def gauges(self) -> Gauges:
        """How it is now."""

    def generate(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> lm_pb2.GenerateResponse:
        """All beams or samples, best first."""

    def generate_stream(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> Iterator[lm_pb2.GenerateStreamResponse]:
        """What is new of each sample or beam, as it comes: results[i] = results[i][:prefix_len] +
        text, counted in characters; scores are added up."""

    def score(
        self,
        prefix: str,
        suffixes: list[str],
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
    ) -> list[float]:
        """log p(suffix | prefix) of each suffix."""

    def embed(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> list[float]:
        """The embedding of a text."""

    def gradient(
        self,
        prefix: str,
        suffix: str,
        extra: common_pb2.ExtraInputs,
        deadline: float,
        on_cancel: OnCancel,
    ) -> Gradient:
        """Score of a suffix and its gradients by tensor name."""

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Whether all calls have ended, at the latest after timeout_s."""

    def unload(self) -> None:
        """Frees what it holds; calls in flight fail with UNAVAILABLE."""
