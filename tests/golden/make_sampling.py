"""Makes sampling.npz: what Hugging Face's logits processors and generate() make of known logits.

Needs packages that the build does not: torch, transformers (seen with torch 2.13.0, transformers
5.24.0). Run it after make_tiny.py:

    python tests/golden/make_sampling.py

Of processors, on random logits f32[4, 50] behind four sequences of 12 token ids:
  logits, ids
  repetition_P    with repetition penalty P
  biased          with `bias_tokens` changed by `bias_values`, then repetition penalty 1.3
  barred          before min_new_tokens, end-of-text tokens 3 and 7
  top_k_P, top_p_P, min_p_P   bool[4, 50]: what is kept, at temperature 1
Of generate(), greedy, for each tiny model M and prompt i of its golden.npz:
  M_i_penalty     the repetition penalty: the first of a list for which no choice is a near tie
  M_i_ids         16 tokens, the first 4 of which must not be `M_i_stop`, with a bias on one token
  M_i_bias        that token and its bias
"""

import pathlib
from typing import Any

import numpy as np
import torch
import transformers
from transformers import generation

HERE = pathlib.Path(__file__).resolve().parent
# Logits agree to 1e-4 (tiny_models_test.py).
STEPS, BARRED, MARGIN = 16, 4, 0.01
PENALTIES = [1.0 + step / 32 for step in range(4, 70)]


def processors() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(5)
    logits = np.asarray(random.normal(size=(4, 50)) * 3, np.float32)
    ids = random.integers(0, 50, (4, 12))
    scores, tokens = torch.from_numpy(logits), torch.from_numpy(ids)
    found: dict[str, Any] = {"logits": logits, "ids": ids.astype(np.int32)}

    def repeated(penalty: float, scores: Any) -> Any:
        return generation.RepetitionPenaltyLogitsProcessor(penalty)(tokens, scores)

    for penalty in (1.3, 0.6):
        found[f"repetition_{penalty}"] = repeated(penalty, scores).numpy()
    bias = {int(ids[0, 0]): 2.5, int(ids[1, 3]): -4.0, 49: 1.25, 11: -100.0}
    sequences = [[[token], value] for token, value in bias.items()]
    biased = generation.SequenceBiasLogitsProcessor(sequences)(tokens, scores)
    found["biased"] = repeated(1.3, biased).numpy()
    found["bias_tokens"] = np.array(list(bias), np.int32)
    found["bias_values"] = np.array(list(bias.values()), np.float32)
    bar = generation.MinNewTokensLengthLogitsProcessor(8, 6, [3, 7], device="cpu")
    found["barred"] = bar(tokens, scores).numpy()
    for name, warper, values in (
        ("top_k", generation.TopKLogitsWarper, (1, 7)),
        ("top_p", generation.TopPLogitsWarper, (0.3, 0.9)),
        ("min_p", generation.MinPLogitsWarper, (0.02, 0.3)),
    ):
        for value in values:
            found[f"{name}_{value}"] = np.isfinite(warper(value)(tokens, scores).numpy())
    return found


def generated(folder: str) -> dict[str, np.ndarray[Any, Any]]:
    golden = np.load(HERE / folder / "golden.npz")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        HERE / folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    found: dict[str, Any] = {}
    for index in range(3):
        prompt, plain = golden[f"prompt_{index}"], golden[f"greedy_{index}"]
        bias = int(plain[0]), -1.5
        stop = int(plain[1])
        for penalty in PENALTIES:
            out = model.generate(
                torch.from_numpy(np.asarray(prompt, np.int64))[None],
                attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
                do_sample=False,
                max_new_tokens=STEPS,
                min_new_tokens=BARRED,
                eos_token_id=stop,
                pad_token_id=0,
                repetition_penalty=penalty,
                sequence_bias=[[[bias[0]], bias[1]]],
                return_dict_in_generate=True,
                output_scores=True,
            )
            best = torch.stack([s[0].topk(2).values for s in out.scores]).numpy()
            if (best[:, 0] - best[:, 1]).min() > MARGIN:
                break
        else:
            raise SystemExit(f"{folder} {index}: every penalty gives a near tie")
        ids = out.sequences[0, len(prompt) :].numpy()
        found[f"{folder}_{index}_penalty"] = np.float32(penalty)
        found[f"{folder}_{index}_ids"] = ids.astype(np.int32)
        found[f"{folder}_{index}_stop"] = np.int32(stop)
        found[f"{folder}_{index}_bias"] = np.array(bias, np.float32)
        print(folder, index, penalty, stop, bias, plain[: len(ids)].tolist(), ids.tolist())
    return found


if __name__ == "__main__":
    numbers: dict[str, Any] = processors()
    for name in ("tiny_gptj", "tiny_llama", "tiny_llama_tied"):
        numbers |= generated(name)
    np.savez_compressed(HERE / "sampling.npz", **numbers)
