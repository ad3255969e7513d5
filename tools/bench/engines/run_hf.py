"""Hugging Face transformers on PyTorch, as a child of the benchmark."""

from typing import Any

import torch
import transformers

from tools.bench.engines.protocol import Recorder, Run, Setup, Task, serve


class _Watch(transformers.LogitsProcessor):  # type: ignore[misc]
    """Is shown every step's logits; changes none."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, ids: Any, logits: Any) -> Any:
        self._recorder.note_all()
        return logits


def generate(model: Any, task: Task) -> dict[str, Any]:
    """One run by `generate` of transformers' models, or of models with their interface."""
    rows = len(task.prompts)
    ids = torch.tensor(task.prompts)
    recorder = Recorder(rows)
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=task.new,
            min_new_tokens=task.new,
            do_sample=False,
            num_beams=task.beams or 1,
            pad_token_id=0,
            logits_processor=[] if task.beams else [_Watch(recorder)],
        )
    answer = recorder.answer(found[:, ids.shape[1] :].tolist())
    if task.beams:
        answer["times"] = []
    return answer


def load(setup: Setup) -> tuple[Run, dict[str, str]]:
    """See protocol.serve."""
    torch.set_num_threads(setup.threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        setup.model, dtype=getattr(torch, setup.weights), local_files_only=True
    ).eval()
    about = {"transformers": transformers.__version__, "torch": torch.__version__}
    return lambda task: generate(model, task), about


if __name__ == "__main__":
    serve(load)
