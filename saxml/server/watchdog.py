"""Whether a model server is fit to serve, and what is done when it is not.

watchdog = Watchdog(models, say=set_grpc_health, on_failure=end_the_process)
watchdog.start()
ready, why = watchdog.ready()
...
watchdog.stop()

Three degrees: a server that drains, has a model that failed, or has an engine whose step takes too
long is not ready, and is ready again when that is over. One whose step hangs for several times as
long is not alive either. One with an engine that broke cannot mend that: its owner is told, once.
"""

import logging
import threading
from collections.abc import Callable

from saxml.proto import common_pb2
from saxml.server.lifecycle import ModelTable

# gRPC health is behind the truth by this much at most; who asks over HTTP is told at once.
PERIOD_S = 0.25

_logger = logging.getLogger(__name__)


class Watchdog:
    """Looks every PERIOD_S, in a thread; ready() and alive() look when they are asked."""

    def __init__(
        self,
        models: ModelTable,
        *,
        say: Callable[[bool], None],
        on_failure: Callable[[str], None],
    ) -> None:
        """say: told whether the server is ready, at first and at each change. on_failure: told why
        an engine cannot go on; both are called from the watchdog's thread."""
        self._models = models
        self._say = say
        self._on_failure = on_failure
        self._said: tuple[bool, str] | None = None
        self._told_failure = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Looks once, then in the thread."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; nobody is told anything any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def ready(self) -> tuple[bool, str]:
        """Whether requests are taken and go on, and what speaks against it."""
        if self._models.draining:
            return False, "draining"
        for model in self._models.status(failure_reasons=True, method_stats=False):
            if model.model_status == common_pb2.FAILED:
                return False, f"{model.model_key}: {model.failure_reason}"
        for key, servable in self._models.loaded():
            if stall := servable.stall:
                return False, f"{key}: {stall}"
        return True, "serving"

    def alive(self) -> tuple[bool, str]:
        """Whether the process may go on; a supervisor restarts it if not."""
        for key, servable in self._models.loaded():
            if servable.failure is not None:
                return False, f"{key}: {servable.failure}"
            if (stall := servable.stall) and stall.hung:
                return False, f"{key}: {stall}"
        return True, "ok"

    def look(self) -> None:
        """Tells what has changed since the last time."""
        ready, why = self.ready()
        if self._said is None or ready != self._said[0]:
            if self._said is not None:
                _logger.warning("%s: %s", "Ready again" if ready else "Not ready", why)
            self._say(ready)
        self._said = ready, why
        if self._told_failure:
            return
        for key, servable in self._models.loaded():
            if servable.failure is not None:
                self._told_failure = True
                self._on_failure(f"{key}: {servable.failure}")
                return

    def _run(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            try:
                self.look()
            except Exception:
                _logger.exception("Cannot look after the models; trying again")
