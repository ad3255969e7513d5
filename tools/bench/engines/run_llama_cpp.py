"""llama.cpp through the functions of its C interface, as a child of the benchmark; its file is made
by make_gguf.py."""

from collections.abc import Sequence
from typing import Any

import llama_cpp as lib
import numpy as np

from tools.bench.engines.protocol import Recorder, Run, Setup, Task, serve

_BATCH = 2048
_UBATCH = 512


class _Model:
    def __init__(self, setup: Setup) -> None:
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(
            setup.model.encode(), lib.llama_model_default_params()
        )
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {setup.model}")
        params = lib.llama_context_default_params()
        rows = max(size.rows for size in setup.sizes)
        # Every sequence has the same share of the context.
        params.n_ctx = rows * max(size.cache_tokens // size.rows for size in setup.sizes)
        params.n_batch, params.n_ubatch = _BATCH, _UBATCH
        params.n_seq_max = rows
        params.n_threads = params.n_threads_batch = setup.threads
        self._context = lib.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")
        self._vocab = setup.shape["V"]

    def run(self, task: Task) -> dict[str, Any]:
        """Prompts one after another, then a token of every row a step."""
        if task.beams:
            raise RuntimeError("llama.cpp has no beam search")
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        rows = len(task.prompts)
        recorder = Recorder(rows)
        tokens: list[list[int]] = [[] for _ in range(rows)]
        for row, prompt in enumerate(task.prompts):
            for first in range(0, len(prompt), _BATCH):
                piece = prompt[first : first + _BATCH]
                places = range(first, first + len(piece))
                last = first + len(piece) == len(prompt)
                self._decode(piece, places, [row] * len(piece), [False] * (len(piece) - 1) + [last])
            tokens[row].append(self._best(-1))
            recorder.note(row)
        place = len(task.prompts[0])
        for step in range(1, task.new):
            newest = [row[-1] for row in tokens]
            self._decode(newest, [place + step - 1] * rows, range(rows), [True] * rows)
            for row in range(rows):
                tokens[row].append(self._best(row))
            recorder.note_all()
        return recorder.answer(tokens)

    def _best(self, index: int) -> int:
        logits = lib.llama_get_logits_ith(self._context, index)
        return int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())

    def _decode(
        self,
        tokens: Sequence[int],
        places: Sequence[int],
        rows: Sequence[int],
        wanted: Sequence[bool],
    ) -> None:
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, (token, place, row, logits) in enumerate(
            zip(tokens, places, rows, wanted, strict=True)
        ):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, place, 1
            batch.seq_id[i][0], batch.logits[i] = row, logits
        code = lib.llama_decode(self._context, batch)
        lib.llama_synchronize(self._context)
        lib.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode of {len(tokens)} tokens failed with code {code}")


def load(setup: Setup) -> tuple[Run, dict[str, str]]:
    """See protocol.serve."""
    return _Model(setup).run, {"llama-cpp-python": lib.__version__}


if __name__ == "__main__":
    serve(load)
