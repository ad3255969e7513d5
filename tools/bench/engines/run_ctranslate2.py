"""CTranslate2, as a child of the benchmark; its folder is made by make_ctranslate2.py."""

from typing import Any

import ctranslate2

from tools.bench.engines.protocol import Recorder, Run, Setup, Task, serve


def _generate(generator: Any, task: Task) -> dict[str, Any]:
    recorder = Recorder(len(task.prompts))

    def token(step: Any) -> bool:
        recorder.note(step.batch_id)
        return False

    found = generator.generate_batch(
        [[f"<{token}>" for token in prompt] for prompt in task.prompts],
        max_length=task.new,
        min_length=task.new,
        beam_size=task.beams or 1,
        sampling_topk=1,
        include_prompt_in_result=False,
        max_batch_size=0,
        callback=None if task.beams else token,
    )
    answer = recorder.answer([result.sequences_ids[0] for result in found])
    if task.beams:
        answer["times"] = []
    return answer


def load(setup: Setup) -> tuple[Run, dict[str, str]]:
    """See protocol.serve."""
    generator = ctranslate2.Generator(
        setup.model,
        device="cpu",
        compute_type=setup.weights,
        intra_threads=setup.threads,
        inter_threads=1,
    )
    return lambda task: _generate(generator, task), {"ctranslate2": ctranslate2.__version__}


if __name__ == "__main__":
    serve(load)
