"""A model server as a process of its own, with the tiny models and without a cell."""

import contextlib
import json
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping

from tests.integration.model_server import tiny
from tests.integration.processes import Process


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """Starts at once; wait_until_ready() before the first call."""

    def __init__(
        self,
        checkpoint: str,
        *models: str,
        flags: tuple[str, ...] = (),
        module: str = "saxml.server.model_server",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port, http_port = free_port(), free_port()
        overrides = [tiny.OVERRIDES[model] for model in models]
        self.process = Process(
            module,
            f"--port={self.port}",
            f"--http_port={http_port}",
            f"--models={','.join([tiny.PATH] * len(models))}",
            f"--model_keys={','.join(models)}",
            f"--checkpoints={','.join([checkpoint] * len(models))}",
            f"--model_config_overrides={json.dumps(overrides)}",
            *flags,
            env={"JAX_PLATFORMS": "cpu", **(env or {})},
        )
        self.models = models
        self.client = tiny.Client(f"127.0.0.1:{self.port}", http_port)

    def wait_until_ready(self) -> None:
        """Until the last model has loaded."""
        limit = time.monotonic() + 300
        labels = {"status": "LOADED", "model": self.models[-1]}
        while True:
            with contextlib.suppress(OSError, KeyError):
                if self.client.metrics("")("model_status", **labels):
                    return
            assert time.monotonic() < limit, self.process.output
            assert self.process.is_running, self.process.output
            time.sleep(0.1)

    def close(self) -> None:
        """SIGKILL, if it still runs."""
        self.client.close()
        self.process.kill()


@contextlib.contextmanager
def serving(
    folder: pathlib.Path,
    *models: str,
    flags: tuple[str, ...] = (),
    module: str = "saxml.server.model_server",
    env: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """A server that is ready. Those whose folders lie side by side compile once."""
    flags = (f"--jax_cache_dir={folder.parent / 'compiled'}", *flags)
    server = ServerProcess(tiny.checkpoint(folder), *models, flags=flags, module=module, env=env)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()
