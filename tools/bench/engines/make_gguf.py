"""A GGUF file from a Llama in a Hugging Face folder: make_gguf HF_FOLDER OUT WEIGHTS.

llama.cpp rotates adjacent dims of a head, Hugging Face's Llama d and d + head_dim / 2: queries and
keys are permuted accordingly. int8 is Q8_0: blocks of 32 with a scale each.
"""

import json
import pathlib
import sys
from typing import Any

import gguf
import numpy as np

_TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
}
_MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def tensors(file: pathlib.Path) -> dict[str, Any]:
    """name -> u16 bits of a safetensors file of bfloat16 tensors."""
    data = np.memmap(file, np.uint8, "r")
    head = int(data[:8].view(np.uint64)[0])
    found = {}
    for name, entry in json.loads(bytes(data[8 : 8 + head])).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise ValueError(f"{file}: {name} is {entry['dtype']}, not BF16")
        first, last = (8 + head + offset for offset in entry["data_offsets"])
        found[name] = data[first:last].view(np.uint16).reshape(entry["shape"])
    return found


def floats(bits: Any) -> Any:
    """u16 bits of bfloat16 -> f32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def paired(matrix: Any, heads: int) -> Any:
    """f32[heads * E, D] in halves -> the same in pairs."""
    rows, D = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, D).swapaxes(1, 2).reshape(rows, D)


def main(folder: str, out: str, weights: str) -> None:
    """Writes it."""
    base = pathlib.Path(folder)
    config = json.loads((base / "config.json").read_text())
    stored = tensors(base / "model.safetensors")
    kind = _TYPES[weights]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")

    def matrix(name: str, source: str, heads: int = 0) -> None:
        values = floats(stored[source])
        values = paired(values, heads) if heads else values
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    matrix("token_embd.weight", "model.embed_tokens.weight")
    if "lm_head.weight" in stored:
        matrix("output.weight", "lm_head.weight")
    writer.add_tensor("output_norm.weight", floats(stored["model.norm.weight"]))
    for layer in range(config["num_hidden_layers"]):
        source, target = f"model.layers.{layer}.", f"blk.{layer}."
        for theirs, name in _NORMS.items():
            norm = floats(stored[f"{source}{theirs}.weight"])
            writer.add_tensor(f"{target}{name}.weight", norm)
        for theirs, name in _MATRICES.items():
            permuted = {"attn_q": heads, "attn_k": kv_heads}.get(name, 0)
            matrix(f"{target}{name}.weight", f"{source}{theirs}.weight", permuted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
