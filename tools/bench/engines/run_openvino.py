"""OpenVINO through optimum's models, as a child of the benchmark; its folder is made by
make_openvino.py. How it computes with weights of 8 bits is OpenVINO's choice."""

import openvino
import torch
from optimum.intel import OVModelForCausalLM

from tools.bench.engines.protocol import Run, Setup, serve
from tools.bench.engines.run_hf import generate

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def load(setup: Setup) -> tuple[Run, dict[str, str]]:
    """See protocol.serve."""
    torch.set_num_threads(setup.threads)
    config = {"INFERENCE_NUM_THREADS": str(setup.threads)}
    if precision := _PRECISIONS.get(setup.weights):
        config["INFERENCE_PRECISION_HINT"] = precision
    model = OVModelForCausalLM.from_pretrained(setup.model, ov_config=config)
    return lambda task: generate(model, task), {"openvino": openvino.__version__}


if __name__ == "__main__":
    serve(load)
