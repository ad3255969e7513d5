"""Our model server, a process of its own that is called through saxml.client, as a child of the
benchmark. Greedy answers are streamed, searches are called."""

import asyncio
import atexit
import functools
import json
import pathlib
import socket
import sys
import tempfile
from typing import Any

import grpc
import jax

from saxml.client.sax_aio import Model
from saxml.client.sax_options import ModelOptions, Options
from saxml.quickstart.cell import Process
from tools.bench.engines import sax_model
from tools.bench.engines.protocol import Recorder, Run, Setup, Task, serve

_KEY = "/sax/bench/model"
_READY_S = 900.0
_CALL_S = 3600.0


class _Server:
    """A model server for the tasks with so many beams."""

    def __init__(self, setup: Setup, beams: int, folder: pathlib.Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._process = Process(
            "model server",
            [
                sys.executable,
                "-m",
                "saxml.server.model_server",
                f"--port={port}",
                f"--models={sax_model.PATH}",
                f"--model_keys={_KEY}",
                f"--checkpoints={setup.model}",
                f"--model_config_overrides={json.dumps([sax_model.overrides(setup, beams)])}",
            ],
            folder / f"server{beams}.log",
        )
        ready = self._process.wait_for(r"(loading completed|loading \S+ failed.*)", _READY_S)
        if "failed" in ready[0]:
            raise RuntimeError(ready[0])

    def stop(self) -> None:
        """Ends it."""
        self._process.stop()


class _Client:
    """Calls the servers from one event loop, which runs while a task does."""

    def __init__(self, servers: dict[int, _Server]) -> None:
        self._servers = servers
        self._loop = asyncio.new_event_loop()
        self._models: dict[int, Model] = {}
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        for beams, server in self._servers.items():
            self._models[beams] = Model(_KEY, Options(proxy_addr=server.address))

    def run(self, task: Task) -> dict[str, Any]:
        """All rows at once."""
        return self._loop.run_until_complete(self._run(task))

    async def _run(self, task: Task) -> dict[str, Any]:
        recorder = Recorder(len(task.prompts))
        call = self._search if task.beams else self._stream
        rows = [call(task, row, recorder) for row in range(len(task.prompts))]
        answer = recorder.answer(await asyncio.gather(*rows))
        if task.beams:
            answer["times"] = []
        return answer

    async def _stream(self, task: Task, row: int, recorder: Recorder) -> list[int]:
        text = ""
        seen = 0
        lm = self._models[0].LM()
        options = _options()
        options.SetExtraInput("per_example_max_decode_steps", task.new)
        async for chunk in lm.GenerateStream(_text(task.prompts[row]), options):
            new, kept, _ = chunk[0]
            text = text[:kept] + new
            count = len(_ids(text))
            for _ in range(count - seen):
                recorder.note(row)
            seen = count
        return _ids(text)

    async def _search(self, task: Task, row: int, recorder: Recorder) -> list[int]:
        lm = self._models[task.beams].LM()
        return _ids((await lm.Generate(_text(task.prompts[row]), _options()))[0][0])


def _options() -> ModelOptions:
    options = ModelOptions()
    options.SetTimeout(_CALL_S)
    return options


def _text(ids: list[int]) -> str:
    return ",".join(map(str, ids))


def _ids(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def load(setup: Setup, folder: pathlib.Path) -> tuple[Run, dict[str, str]]:
    """See protocol.serve. The servers' logs are in the folder."""
    servers: dict[int, _Server] = {}
    for beams in sorted({size.beams for size in setup.sizes}):
        servers[beams] = _Server(setup, beams, folder)
        atexit.register(servers[beams].stop)
    return _Client(servers).run, {"jax": jax.__version__, "grpcio": grpc.__version__}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sax-bench-") as name:
        serve(functools.partial(load, folder=pathlib.Path(name)))
