"""An engine for tests of the benchmark: fake_engine SETUP [KIND]."""

import functools
import sys
import time
from typing import Any

from tools.bench.engines.protocol import Recorder, Run, Setup, Task, serve


def answer(kind: str, task: Task) -> dict[str, Any]:
    if kind == "fails":
        raise RuntimeError("the engine has no memory")
    if kind == "hangs":
        time.sleep(3600)
    recorder = Recorder(len(task.prompts))
    tokens = [[prompt[0]] * task.new for prompt in task.prompts]
    for _ in range(task.new):
        recorder.note_all()
    print("a library talks on stdout")
    found = recorder.answer([row[:1] for row in tokens] if kind == "stops" else tokens)
    return found | ({"times": []} if task.beams else {})


def load(setup: Setup, kind: str) -> tuple[Run, dict[str, str]]:
    if kind == "missing":
        raise ImportError("no module named engine")
    print("loading", setup.model)
    return functools.partial(answer, kind), {"version": "7"}


if __name__ == "__main__":
    serve(functools.partial(load, kind=sys.argv[2] if len(sys.argv) > 2 else ""))
