import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from saxml.client.language_model import LanguageModel
from saxml.client.model_client import ClientOptions, ModelClient
from tests.unit.client.stubs import StubAdmin, StubServer

MODEL = "/sax/test/lm"


class World:
    """A cell with a stub admin server, stub model servers, and clients."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self._stack = stack
        self.admin = self.start_admin()

    def start_admin(self, server_id: str = "admin_1", port: int = 0) -> StubAdmin:
        admin = StubAdmin(server_id).start(self.root, port=port)
        self._stack.callback(admin.stop)
        return admin

    def server(self, name: str = "one", port: int = 0) -> StubServer:
        server = StubServer(name).start(port)
        self._stack.callback(server.stop)
        return server

    def client(self, model: str = MODEL, **options: Any) -> ModelClient:
        client = ModelClient(
            model,
            lambda: str(self.root),
            ClientOptions(**options),
            rng=random.Random(1),
        )
        self._stack.callback(client.close)
        return client

    def lm(self, **options: Any) -> LanguageModel:
        return LanguageModel(self.client(**options))


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
