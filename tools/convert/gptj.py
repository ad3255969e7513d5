"""GPT-J from a Hugging Face folder to a Pax checkpoint.

bazel run //tools/convert:gptj -- --base DIR --pax DIR
"""

import re

from saxml.checkpoint import layout
from saxml.checkpoint.record import ModelRecord
from saxml.models.config import ModelConfig
from tools.convert import cli, output
from tools.convert.hf_folder import HfFolder
from tools.convert.mapping import FROM_HEADS, KEPT, TO_HEADS, TRANSPOSED, Progress, Rule

_LAYER = "transformer.h.{layer}."
RULES = {
    "embedding": Rule(("transformer.wte.weight",)),
    "head.w": Rule(("lm_head.weight",), TRANSPOSED),
    "head.b": Rule(("lm_head.bias",)),
    "final_norm.scale": Rule(("transformer.ln_f.weight",)),
    "final_norm.bias": Rule(("transformer.ln_f.bias",)),
    "norm.scale": Rule((_LAYER + "ln_1.weight",)),
    "norm.bias": Rule((_LAYER + "ln_1.bias",)),
    "qkv": Rule(tuple(f"{_LAYER}attn.{n}_proj.weight" for n in "qkv"), TO_HEADS),
    "out": Rule((_LAYER + "attn.out_proj.weight",), FROM_HEADS),
    "fc_in.w": Rule((_LAYER + "mlp.fc_in.weight",), TRANSPOSED),
    "fc_in.b": Rule((_LAYER + "mlp.fc_in.bias",), KEPT),
    "fc_out.w": Rule((_LAYER + "mlp.fc_out.weight",), TRANSPOSED),
    "fc_out.b": Rule((_LAYER + "mlp.fc_out.bias",), KEPT),
}
# Causal masks and rotary tables that older checkpoints carry along.
_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias|embed_positions)$")


def convert_gptj(
    base: str,
    pax: str,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    compression: str = layout.GZIP,
) -> str:
    """Converts the folder `base` into `pax`/checkpoint_00000000 and returns that path.

    Numbers keep their type. Raises SaxErrors that name the file and the field or tensor.
    """
    folder = HfFolder(base)
    tokenizer, files = folder.tokenizer()
    stops = folder.stop_token_ids()
    record = ModelRecord(
        config=gptj_config(folder),
        sos_id=folder.config.token("bos_token_id", stops[0]),
        eos_id=stops[0],
        stop_token_ids=stops,
        tokenizer=tokenizer,
    )
    return output.write(
        pax,
        record,
        RULES,
        folder.tensors(),
        files,
        overwrite=overwrite,
        compression=compression,
        ignored=lambda name: bool(_BUFFERS.match(name)),
        progress=progress,
    )


def gptj_config(folder: HfFolder) -> ModelConfig:
    """Sizes as config.json has them."""
    fields = folder.config
    fields.choice("model_type", ("gptj",))
    fields.choice("activation_function", ("gelu_new",), "gelu_new")
    model_dim, heads = fields.number("n_embd"), fields.number("n_head")
    if model_dim % heads:
        raise fields.bad("n_embd", model_dim, f"a multiple of n_head {heads}")
    if fields.flag("tie_word_embeddings", False):
        raise fields.bad("tie_word_embeddings", True, "false: GPT-J has a head of its own")
    return ModelConfig(
        family="gptj",
        num_layers=fields.number("n_layer"),
        model_dim=model_dim,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=model_dim // heads,
        hidden_dim=fields.number("n_inner", 4 * model_dim),
        vocab_size=fields.number("vocab_size"),
        rotary_dim=fields.number("rotary_dim"),
        rotary_base=10000.0,
        rotary_style="pairs",
        norm_eps=fields.real("layer_norm_epsilon", 1e-5),
        tied_embeddings=False,
        combined_qkv=True,
        max_positions=fields.number("n_positions"),
    )


if __name__ == "__main__":
    cli.main(convert_gptj)
