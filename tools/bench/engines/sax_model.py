"""How the model is published on our side: AutoLM, sized for the benchmark's tasks."""

from typing import Any

from tools.bench.engines.protocol import Setup

PATH = "saxml.server.pax.lm.params.auto.AutoLM"


def overrides(setup: Setup, beams: int) -> dict[str, Any]:
    """Constants for the tasks with so many beams (0: for greedy ones): ids in and out, no stop
    token that an answer is likely to meet. Prompts hurry, so that most of the time all rows decode
    together, and are computed even if another case had the same one."""
    sizes = [size for size in setup.sizes if size.beams == beams]
    steps = max(size.new for size in sizes)
    prompt = max(size.prompt for size in sizes)
    shape = setup.shape
    head_dim = shape["D"] // shape["H"]
    kv_bytes = 2 * shape["L"] * shape["K"] * head_dim * (4 if setup.weights == "float32" else 2)
    # A request may be as long as the longest prompt and the longest answer together.
    tokens = max(prompt + max(1, beams) * (steps + 64), *(size.cache_tokens for size in sizes))
    common: dict[str, Any] = {
        "FPROP_DTYPE": "float32" if setup.weights == "float32" else "bfloat16",
        "TOKENIZED_INPUT": True,
        "TOKENIZED_OUTPUT": True,
        "PREPEND_SOS": False,
        "STOP_TOKEN_IDS": [shape["V"] - 1],
        "INPUT_SEQ_LEN": prompt,
        "MAX_DECODE_STEPS": steps,
        "KV_CACHE_GIB": tokens * kv_bytes / 2**30,
        "NUM_SAMPLES": 1,
        "PREFILL_STRETCH": None,
        "PREFIX_CACHE": False,
        "BATCH_SIZE": max(size.rows for size in sizes),
    }
    if setup.weights == "int8":
        common["WEIGHT_DTYPE"] = "int8"
    if not beams:
        return common | {"TOP_K": 1}
    return common | {
        "USE_BEAM_SEARCH": True,
        "BEAM_SIZE": beams,
        "TOKENS_PER_BEAM": beams,
        # The last step may end an answer, so that there is one.
        "MIN_DECODE_STEPS": steps - 1,
        "BEAM_SEARCH_FIXED_STEPS": True,
    }
