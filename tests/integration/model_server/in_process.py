"""A real model server in the test's own process, whose steps can be held and whose engines can be
looked at."""

import contextlib
import json
import pathlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from saxml.common.clock import SystemClock
from saxml.engine.engine import Engine
from saxml.proto import admin_pb2
from saxml.server import configs, registry
from saxml.server.lifecycle import ModelTable
from saxml.server.loading import LoadOptions
from saxml.server.servable_model import LmServable
from saxml.server.serving import ModelServer
from tests.integration.model_server import tiny

configs.import_all()


class Held:
    """Lets an engine's steps through one by one."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._steps = engine, dict(engine._device.steps)
        self._permits = threading.Semaphore(0)
        self._open = False
        self.entered = threading.Semaphore(0)
        for bucket, step in self._steps.items():
            engine._device.steps[bucket] = self._holding(step)

    def _holding(self, step: Any) -> Any:
        def held(*arguments: object) -> Any:
            self.entered.release()
            if not self._open:
                self._permits.acquire()
            return step(*arguments)

        return held

    def wait(self) -> None:
        """Until a step is about to run."""
        assert self.entered.acquire(timeout=60)

    def let(self) -> None:
        """Lets one step run."""
        self._permits.release()

    def let_all(self) -> None:
        """Holds no more."""
        self._open = True
        self._permits.release()
        self._engine._device.steps.update(self._steps)


class InProcess:
    """A server of the models named, and a client of it."""

    def __init__(self, folder: pathlib.Path, *models: str) -> None:
        self._checkpoint = tiny.checkpoint(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            http_port = probe.getsockname()[1]
        self.models = ModelTable(self._build)
        self.server = ModelServer(
            self.models,
            port=0,
            cell=None,
            description=admin_pb2.ModelServer(),
            clock=SystemClock(),
            http_port=http_port,
        )
        self.server.start()
        for model in models:
            overrides = {k: json.dumps(v) for k, v in tiny.OVERRIDES[model].items()}
            self.models.load(model, tiny.PATH, self._checkpoint, overrides, {})
        self.client = self.new_client()

    def _build(
        self, key: str, path: str, checkpoint: str, overrides: Mapping[str, str]
    ) -> LmServable:
        return LmServable.load(
            key, registry.resolve(path)(overrides), checkpoint, LoadOptions(), SystemClock()
        )

    def new_client(self) -> tiny.Client:
        """Another client, with a connection of its own."""
        return tiny.Client(f"127.0.0.1:{self.server.port}", self.server.http_port)

    def engine(self, model: str = tiny.SAMPLES) -> Engine:
        """The engine of a model."""
        servable = self.models.get(model)
        assert isinstance(servable, LmServable)
        return servable._engine

    @contextlib.contextmanager
    def held(self, model: str = tiny.SAMPLES) -> Iterator[Held]:
        """Holds an engine's steps meanwhile."""
        held = Held(self.engine(model))
        try:
            yield held
        finally:
            held.let_all()

    def check(self, model: str = tiny.SAMPLES) -> None:
        """Nothing runs, and every page is back."""
        engine = self.engine(model)
        assert engine.pending == 0
        assert engine.gauges().used_pages == 0
        engine.check_integrity()

    def close(self) -> None:
        """Ends everything."""
        self.client.close()
        self.server.stop()
