"""Makes the tiny checkpoints beside this file, with the numbers Hugging Face computes from them.

Needs packages that the build does not: torch, transformers, safetensors (seen with torch 2.13.0).

    python tests/golden/make_tiny.py            # writes tiny_gptj/, tiny_llama/, tiny_llama_tied/

Weights are drawn in NumPy with a fixed seed and stored as float32; they are large enough that
logits differ by whole units, so that a greedy choice does not hang on rounding (prompts are drawn
until the best two tokens of each greedy step are at least 0.02 apart).

golden.npz holds, for each prompt i:
  prompt_i  i32[n]       token ids
  logits_i  f32[n, V]    at every position of the prompt
  greedy_i  i32[24]      greedy continuation, end-of-text ids not special
"""

import json
import pathlib
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 24
MARGIN = 0.02
LIMIT = 300_000

GPTJ = {
    "architectures": ["GPTJForCausalLM"],
    "model_type": "gptj",
    "vocab_size": 211,
    "n_positions": 128,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "rotary_dim": 4,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 224,
    "max_position_embeddings": 128,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
LLAMA_TIED = {
    **LLAMA,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}


def draw(
    name: str, shape: tuple[int, ...], tied: bool, random: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Weights of about unit gain; biases and norms that are not trivial."""
    noise = np.asarray(random.standard_normal(shape), np.float32)
    if "embed" in name or "wte" in name:
        return np.float32(0.25 if tied else 1) * noise
    if name.endswith("bias"):
        return np.float32(0.3) * noise
    if len(shape) == 1:
        return 1 + np.float32(0.2) * noise
    gain = 3.0 if name.startswith("lm_head") else 1.4
    return np.float32(gain / shape[1] ** 0.5) * noise


def make(folder: str, config: dict[str, Any], seed: int, shards: int) -> None:
    """One checkpoint."""
    torch.use_deterministic_algorithms(True)
    random = np.random.default_rng(seed)
    parsed = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(parsed, attn_implementation="eager")
    model = model.float().eval()
    weights = {}
    for name, tensor in model.named_parameters():
        weights[name] = draw(name, tuple(tensor.shape), config["tie_word_embeddings"], random)
        tensor.data.copy_(torch.from_numpy(weights[name]))
    golden: dict[str, Any] = {}
    for index, length in enumerate((1, 7, 23)):
        chosen = None
        while chosen is None:
            prompt = random.integers(3, config["vocab_size"], length)
            chosen = greedy(model, prompt)
        golden[f"prompt_{index}"] = prompt.astype(np.int32)
        golden[f"logits_{index}"] = logits(model, prompt)
        golden[f"greedy_{index}"] = chosen
    out = HERE / folder
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    np.savez_compressed(out / "golden.npz", **golden)
    save(out, weights, shards)
    for file in out.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in out.iterdir())
    assert size <= LIMIT, f"{folder} has {size} bytes"
    print(folder, size, "bytes; greedy", [golden[f"greedy_{i}"][:8].tolist() for i in range(3)])


def logits(model: Any, prompt: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """f32[n, V]."""
    with torch.no_grad():
        out = model(torch.from_numpy(np.asarray(prompt, np.int64))[None]).logits[0]
    return np.asarray(out.numpy(), np.float32)


def greedy(model: Any, prompt: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """i32[STEPS], the whole sequence computed anew for each token; None where two tokens nearly
    tie."""
    ids = list(prompt)
    for _ in range(STEPS):
        last = logits(model, np.array(ids))[-1]
        first, second = np.sort(last)[[-1, -2]]
        if first - second < MARGIN:
            return None
        ids.append(int(last.argmax()))
    return np.array(ids[len(prompt) :], np.int32)


def save(folder: pathlib.Path, weights: dict[str, np.ndarray[Any, Any]], shards: int) -> None:
    """One model.safetensors, or shards with an index."""
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    where: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(w.nbytes for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    make("tiny_gptj", GPTJ, seed=7, shards=1)
    make("tiny_llama", LLAMA, seed=11, shards=2)
    make("tiny_llama_tied", LLAMA_TIED, seed=13, shards=1)
