"""OpenVINO through optimum's models, as a child of the benchmark; its folder is made by
make_openvino.py. Weights of 8 bits are stored so and computed with by OpenVINO's choice."""

import openvino
import torch
from optimum.intel import OVModelForCausalLM

from tools.bench.engines.protocol import Run, Setup, serve
from tools.bench.engines.run_hf import generate


def load(setup: Setup) -> tuple[Run, dict[str, str]]:
    """See protocol.serve."""
    torch.set_num_threads(setup.threads)
    model = OVModelForCausalLM.from_pretrained(
        setup.model, ov_config={"INFERENCE_NUM_THREADS": str(setup.threads)}
    )
    return lambda task: generate(model, task), {"openvino": openvino.__version__}


if __name__ == "__main__":
    serve(load)
