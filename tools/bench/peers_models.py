"""Models with random weights for the comparison with peers, made once and kept.

Each lies in a folder in Hugging Face's layout, bfloat16; what engines want instead is made of that:
ours by our converters, a peer's by a program of its own environment.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import tqdm  # type: ignore[import-untyped]

from tools.bench.cases import Shape
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

_SCALE = 0.02


def hf_folder(shape: Shape, cache: pathlib.Path) -> pathlib.Path:
    """The folder of a shape; made first if it is not there."""
    folder = cache / "models" / f"{shape.name}-hf"
    if not folder.exists():
        with fresh(folder) as made:
            (made / "config.json").write_text(json.dumps(config(shape), indent=1))
            write_safetensors(made / "model.safetensors", tensors(shape))
    return folder


def sax_checkpoint(shape: Shape, cache: pathlib.Path) -> pathlib.Path:
    """Our checkpoint of a shape; converted first if it is not there."""
    folder = cache / "models" / f"{shape.name}-sax"
    if not folder.exists():
        convert = convert_gptj if shape.family == "gptj" else convert_llama
        with fresh(folder) as made:
            convert(str(hf_folder(shape, cache)), str(made))
    return folder / "checkpoint_00000000"


@contextlib.contextmanager
def fresh(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill: it is there as a whole under its name in the end, or not at all."""
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def config(shape: Shape) -> dict[str, Any]:
    """config.json. The last id ends answers."""
    last = shape.V - 1
    ids = {"vocab_size": shape.V, "bos_token_id": last, "eos_token_id": last}
    if shape.family == "gptj":
        return ids | {
            "model_type": "gptj",
            "architectures": ["GPTJForCausalLM"],
            "activation_function": "gelu_new",
            "n_embd": shape.D,
            "n_head": shape.H,
            "n_inner": shape.F,
            "n_layer": shape.L,
            "n_positions": shape.max_positions,
            "rotary_dim": shape.rotary_dim,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }
    return ids | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": shape.D,
        "intermediate_size": shape.F,
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.H,
        "num_hidden_layers": shape.L,
        "num_key_value_heads": shape.K,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
    }


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights."""
    D, F, V = shape.D, shape.F, shape.V
    queries, keys = shape.H * shape.head_dim, shape.K * shape.head_dim
    found: dict[str, tuple[int, ...]] = {}
    if shape.family == "gptj":
        found |= {"transformer.wte.weight": (V, D)}
        for layer in range(shape.L):
            name = f"transformer.h.{layer}."
            found |= {f"{name}ln_1.{part}": (D,) for part in ("weight", "bias")}
            found |= {f"{name}attn.{part}_proj.weight": (D, D) for part in ("q", "k", "v", "out")}
            found |= {f"{name}mlp.fc_in.weight": (F, D), f"{name}mlp.fc_in.bias": (F,)}
            found |= {f"{name}mlp.fc_out.weight": (D, F), f"{name}mlp.fc_out.bias": (D,)}
        found |= {f"transformer.ln_f.{part}": (D,) for part in ("weight", "bias")}
        return found | {"lm_head.weight": (V, D), "lm_head.bias": (V,)}
    found |= {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    for layer in range(shape.L):
        name = f"model.layers.{layer}."
        found |= {f"{name}{part}_layernorm.weight": (D,) for part in ("input", "post_attention")}
        for part, rows, columns in (
            ("self_attn.q", queries, D),
            ("self_attn.k", keys, D),
            ("self_attn.v", keys, D),
            ("self_attn.o", D, queries),
            ("mlp.gate", F, D),
            ("mlp.up", F, D),
            ("mlp.down", D, F),
        ):
            found[f"{name}{part}_proj.weight"] = (rows, columns)
    return found if shape.tied else found | {"lm_head.weight": (V, D)}


def write_safetensors(file: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Random bfloat16 weights, one tensor in memory at a time: norms' scales are 1, biases 0, the
    rest normal. The same shapes give the same numbers."""
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with (
        file.open("wb") as out,
        tqdm.tqdm(total=end, unit="B", unit_scale=True, desc=file.parent.name, disable=None) as bar,
    ):
        out.write(len(head).to_bytes(8, "little") + head)
        for values in _random(shapes):
            bar.update(out.write(values.view(np.uint8).data))


def _random(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        if len(shape) > 1:
            values = random.standard_normal(shape, np.float32)
            values *= _SCALE
        else:
            values = np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
        yield values.astype(ml_dtypes.bfloat16).reshape(-1)
