"""Adds to the tiny checkpoints beside this file what Hugging Face says of hidden states, and what
torch says of derivatives.

Needs packages that the build does not: torch, transformers (seen with torch 2.13.0). Runs after
make_tiny.py, which empties the folders.

    python tests/golden/make_derivatives.py

derivatives.npz holds, for the last prompt of golden.npz, cut into a prefix and a suffix:
  prefix, suffix      i32[n], i32[m]     token ids
  hidden              f32[n + m, D]      last_hidden_state of prefix and suffix
  score               f64                log p(suffix | prefix)
  inputs              f32[n + m - 1, D]  its gradient with respect to the embedded inputs
  NAME                                   its gradient with respect to that parameter, named and laid
                                         out as in Hugging Face
"""

import pathlib
from typing import Any

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
CUT = 15
PARAMETERS = {
    "tiny_gptj": (
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
        "transformer.wte.weight",
        "transformer.h.1.attn.q_proj.weight",
        "transformer.h.1.attn.k_proj.weight",
        "transformer.h.1.attn.v_proj.weight",
        "transformer.h.2.attn.out_proj.weight",
        "lm_head.bias",
    ),
    "tiny_llama": (
        "model.norm.weight",
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
    ),
    "tiny_llama_tied": ("model.norm.weight", "model.embed_tokens.weight"),
}


def make(folder: str, names: tuple[str, ...]) -> None:
    """derivatives.npz of one checkpoint."""
    torch.use_deterministic_algorithms(True)
    path = HERE / folder
    model = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    model = model.float().eval()
    prompt = np.load(path / "golden.npz")["prompt_2"]
    ids = torch.from_numpy(np.asarray(prompt, np.int64))[None]
    embedded = model.get_input_embeddings()(ids[:, :-1])
    embedded.retain_grad()
    logp = torch.log_softmax(model(inputs_embeds=embedded).logits[0].double(), -1)
    score = sum(logp[i - 1, ids[0, i]] for i in range(CUT, len(prompt)))
    score.backward()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state[0].numpy()
    found: dict[str, Any] = {
        "prefix": prompt[:CUT],
        "suffix": prompt[CUT:],
        "hidden": np.asarray(hidden, np.float32),
        "score": np.float64(score.item()),
        "inputs": embedded.grad[0].numpy(),
        **{name: parameters[name].grad.numpy() for name in names},
    }
    np.savez_compressed(path / "derivatives.npz", **found)
    print(folder, (path / "derivatives.npz").stat().st_size, "bytes; score", score.item())


if __name__ == "__main__":
    for folder, names in PARAMETERS.items():
        make(folder, names)
