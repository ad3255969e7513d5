"""Llama-family models from a Hugging Face folder to a Pax checkpoint.

bazel run //tools/convert:llama -- --base DIR --pax DIR
"""

import re

from saxml.checkpoint import layout
from saxml.checkpoint.record import ModelRecord
from saxml.common import errors
from saxml.models.config import ModelConfig
from saxml.tokenizer import chat
from tools.convert import cli, output
from tools.convert.hf_folder import Fields, HfFolder
from tools.convert.mapping import FROM_HEADS, TO_HEADS, TRANSPOSED, Progress, Rule

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_MLP = _LAYER + "mlp."
_EMBEDDING = "model.embed_tokens.weight"
RULES = {
    "embedding": Rule((_EMBEDDING,)),
    "head.w": Rule(("lm_head.weight",), TRANSPOSED),
    "final_norm.scale": Rule(("model.norm.weight",)),
    "norm.scale": Rule((_LAYER + "input_layernorm.weight",)),
    "query": Rule((_ATTENTION + "q_proj.weight",), TO_HEADS),
    "key": Rule((_ATTENTION + "k_proj.weight",), TO_HEADS),
    "value": Rule((_ATTENTION + "v_proj.weight",), TO_HEADS),
    "out": Rule((_ATTENTION + "o_proj.weight",), FROM_HEADS),
    "ff_norm.scale": Rule((_LAYER + "post_attention_layernorm.weight",)),
    "gate": Rule((_MLP + "gate_proj.weight",), TRANSPOSED),
    "up": Rule((_MLP + "up_proj.weight",), TRANSPOSED),
    "down": Rule((_MLP + "down_proj.weight",), TRANSPOSED),
}
TIED_HEAD = Rule((_EMBEDDING,), TRANSPOSED)
_BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")


def convert_llama(
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
    config = llama_config(folder)
    tokenizer, files = folder.tokenizer()
    stops = folder.stop_token_ids()
    template = folder.chat_template()
    chat_format, chat_system = chat.recognise(template)
    start = folder.config.token("bos_token_id", stops[0])
    record = ModelRecord(
        config=config,
        sos_id=start,
        eos_id=stops[0],
        stop_token_ids=stops,
        prepend_sos=folder.prepends_start(start),
        tokenizer=tokenizer,
        chat_template=template,
        chat_format=chat_format,
        chat_system=chat_system,
    )
    tied = config.tied_embeddings

    def ignored(name: str) -> bool:
        # A tied head may be stored a second time.
        return bool(_BUFFERS.match(name)) or (tied and name == "lm_head.weight")

    return output.write(
        pax,
        record,
        {**RULES, "head.w": TIED_HEAD} if tied else RULES,
        folder.tensors(),
        files,
        overwrite=overwrite,
        compression=compression,
        ignored=ignored,
        progress=progress,
    )


def llama_config(folder: HfFolder) -> ModelConfig:
    """Sizes as config.json has them; UnimplementedError for variants that we do not compute."""
    fields = folder.config
    fields.choice("model_type", ("llama",))
    fields.choice("hidden_act", ("silu",), "silu")
    for name in ("attention_bias", "mlp_bias"):
        if fields.flag(name, False):
            raise errors.UnimplementedError(f"{fields.where}: {name} is true; implemented: false")
    model_dim, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    head_dim = fields.number("head_dim", model_dim // heads)
    return ModelConfig(
        family="llama",
        num_layers=fields.number("num_hidden_layers"),
        model_dim=model_dim,
        num_heads=heads,
        num_kv_heads=fields.number("num_key_value_heads", heads),
        head_dim=head_dim,
        hidden_dim=fields.number("intermediate_size"),
        vocab_size=fields.number("vocab_size"),
        rotary_dim=head_dim,
        rotary_base=_rotary_base(fields),
        rotary_style="halves",
        norm_eps=fields.real("rms_norm_eps"),
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        combined_qkv=False,
        max_positions=fields.number("max_position_embeddings"),
    )


def _rotary_base(fields: Fields) -> float:
    """rope_theta, at the top or, since transformers 5, in rope_parameters; no scaling."""
    for name in ("rope_parameters", "rope_scaling"):
        if not fields.has(name):
            continue
        rope = fields.child(name)
        # Older files say "type" for "rope_type".
        kind = "type" if rope.has("type") and not rope.has("rope_type") else "rope_type"
        rope.choice(kind, ("default",), "default")
        if rope.has("rope_theta"):
            return rope.real("rope_theta")
    return fields.real("rope_theta", 10000.0)


if __name__ == "__main__":
    cli.main(convert_llama)
