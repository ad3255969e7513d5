"""Our engine without a server around it, as a child of the benchmark."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import Decoder, Ints, SampleDecoder
from saxml.engine.engine import Engine
from saxml.engine.request import Request
from saxml.server import configs, loading, registry
from tools.bench.engines import sax_model
from tools.bench.engines.protocol import Recorder, Run, Setup, Task, serve


def _submit(engine: Engine, prompt: Ints, decoder: Decoder, note: Callable[[], None]) -> Request:
    request = engine.submit(prompt, decoder, on_step=lambda found: note())
    # The last token has no on_step of its own.
    request.future.add_done_callback(lambda future: note())
    return request


def _run(engine_of: Callable[[int], loading.Loaded], task: Task) -> dict[str, Any]:
    loaded = engine_of(task.beams)

    def decoder() -> Decoder:
        if loaded.beam:
            return BeamDecoder(loaded.beam)
        return SampleDecoder(num_samples=1, max_steps=task.new, stop_ids=())

    prompts = [np.array(prompt, np.int32) for prompt in task.prompts]
    recorder = Recorder(len(prompts))
    requests = [
        _submit(loaded.engine, prompt, decoder(), functools.partial(recorder.note, row))
        for row, prompt in enumerate(prompts)
    ]
    found = [request.future.result()[0].tokens.tolist() for request in requests]
    answer = recorder.answer(found)
    if task.beams:
        answer["times"] = []
    return answer


def load(setup: Setup) -> tuple[Run, dict[str, str]]:
    """See protocol.serve."""
    configs.import_all()

    @functools.cache
    def engine_of(beams: int) -> loading.Loaded:
        texts = {k: json.dumps(v) for k, v in sax_model.overrides(setup, beams).items()}
        params = registry.resolve(sax_model.PATH)(texts)
        return loading.load(params, setup.model, loading.LoadOptions())

    for beams in {size.beams for size in setup.sizes}:
        engine_of(beams)
    return functools.partial(_run, engine_of), {"jax": jax.__version__}


if __name__ == "__main__":
    serve(load)
