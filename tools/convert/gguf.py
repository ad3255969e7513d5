"""GGUF files of the llama architecture to a Pax checkpoint.

bazel run //tools/convert:gguf -- --base model.gguf --pax DIR

Quantised numbers are expanded and stored as bfloat16; plain ones keep their type.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from saxml.checkpoint import layout
from saxml.checkpoint.record import ModelRecord, TokenizerRecord
from saxml.common import errors
from saxml.models.config import ModelConfig
from saxml.tokenizer import bpe, chat
from tools.convert import cli, dequantise, output
from tools.convert.gguf_reader import GgufFile
from tools.convert.hf_folder import Fields
from tools.convert.mapping import FROM_HEADS, TO_HEADS, TRANSPOSED, Array, Progress, Rule, Shape

_LAYER = "blk.{layer}."
_EMBEDDING = "token_embd.weight"
_HEAD = "output.weight"
RULES = {
    "embedding": Rule((_EMBEDDING,)),
    "head.w": Rule((_HEAD,), TRANSPOSED),
    "final_norm.scale": Rule(("output_norm.weight",)),
    "norm.scale": Rule((_LAYER + "attn_norm.weight",)),
    "query": Rule((_LAYER + "attn_q.weight",), TO_HEADS),
    "key": Rule((_LAYER + "attn_k.weight",), TO_HEADS),
    "value": Rule((_LAYER + "attn_v.weight",), TO_HEADS),
    "out": Rule((_LAYER + "attn_output.weight",), FROM_HEADS),
    "ff_norm.scale": Rule((_LAYER + "ffn_norm.weight",)),
    "gate": Rule((_LAYER + "ffn_gate.weight",), TRANSPOSED),
    "up": Rule((_LAYER + "ffn_up.weight",), TRANSPOSED),
    "down": Rule((_LAYER + "ffn_down.weight",), TRANSPOSED),
}
TIED_HEAD = Rule((_EMBEDDING,), TRANSPOSED)
TOKENIZER_FILE = "tokenizer.json"
# tokenizer.ggml.pre -> whether each digit is a token of its own.
_PRE_TOKENIZERS = {"smollm": True, "gpt-2": False}
_CONTROL, _USER_DEFINED = 3, 4
# Names by which models end a text or a turn, beside the one that the file calls eos.
_ENDS = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "</s>")


class GgufTensors:
    """Tensors of a file; quantised ones come out as bfloat16."""

    def __init__(self, gguf: GgufFile) -> None:
        self._gguf = gguf
        self.where = gguf.file.path

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each tensor."""
        return {name: info.shape for name, info in self._gguf.tensors.items()}

    def dtype(self, name: str) -> str:
        """Name of the type that get() gives."""
        form = dequantise.format_of(self._gguf.tensors[name].kind)
        return "bfloat16" if form.expand else form.dtype.name

    def get(self, name: str) -> Array:
        """The numbers."""
        info = self._gguf.tensors[name]
        data = self._gguf.file.array(info.start, info.length, np.dtype(np.uint8), f"tensor {name}")
        values = dequantise.dequantise(data, info.kind, info.shape)
        if dequantise.format_of(info.kind).expand:
            return values.astype(ml_dtypes.bfloat16)
        return values

    def release(self, name: str) -> None:
        """Gives its pages back."""
        info = self._gguf.tensors[name]
        self._gguf.file.release(info.start, info.length)


def convert_gguf(
    base: str,
    pax: str,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    compression: str = layout.GZIP,
) -> str:
    """Converts the file `base` into `pax`/checkpoint_00000000 and returns that path.

    Raises SaxErrors that name the file and the field or tensor.
    """
    gguf = GgufFile(base)
    fields = Fields(gguf.metadata, base)
    fields.choice("general.architecture", ("llama",))
    config = gguf_config(gguf, fields)
    template = gguf.metadata.get("tokenizer.chat_template")
    template = template if isinstance(template, str) else None
    chat_format, chat_system = chat.recognise(template)
    eos = fields.token("tokenizer.ggml.eos_token_id")
    tokens = fields.items("tokenizer.ggml.tokens", str)
    ends = [tokens.index(name) for name in _ENDS if name in tokens]
    record = ModelRecord(
        config=config,
        sos_id=fields.token("tokenizer.ggml.bos_token_id", eos),
        eos_id=eos,
        stop_token_ids=(eos, *(i for i in ends if i != eos)),
        prepend_sos=fields.flag("tokenizer.ggml.add_bos_token", False),
        tokenizer=TokenizerRecord(kind="hf_json", files=(TOKENIZER_FILE,)),
        chat_template=template,
        chat_format=chat_format,
        chat_system=chat_system,
    )
    rules = {**RULES, "head.w": TIED_HEAD} if config.tied_embeddings else RULES
    files = {TOKENIZER_FILE: tokenizer_json(gguf, fields)}
    tensors = GgufTensors(gguf)
    return output.write(
        pax,
        record,
        rules,
        tensors,
        files,
        overwrite=overwrite,
        compression=compression,
        progress=progress,
    )


def gguf_config(gguf: GgufFile, fields: Fields) -> ModelConfig:
    """Sizes as the metadata has them. The file's query and key weights are permuted so that
    adjacent dims rotate together."""
    if _EMBEDDING not in gguf.tensors:
        raise errors.InvalidArgumentError(f"{fields.where} has no tensor {_EMBEDDING}")
    fields.choice("llama.rope.scaling.type", ("none",), "none")
    model_dim = fields.number("llama.embedding_length")
    heads = fields.number("llama.attention.head_count")
    head_dim = fields.number("llama.attention.key_length", max(model_dim // heads, 1))
    return ModelConfig(
        family="llama",
        num_layers=fields.number("llama.block_count"),
        model_dim=model_dim,
        num_heads=heads,
        num_kv_heads=fields.number("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden_dim=fields.number("llama.feed_forward_length"),
        vocab_size=gguf.tensors[_EMBEDDING].shape[0],
        rotary_dim=fields.number("llama.rope.dimension_count", head_dim),
        rotary_base=fields.real("llama.rope.freq_base", 10000.0),
        rotary_style="pairs",
        norm_eps=fields.real("llama.attention.layer_norm_rms_epsilon"),
        tied_embeddings=_HEAD not in gguf.tensors,
        combined_qkv=False,
        max_positions=fields.number("llama.context_length"),
    )


def tokenizer_json(gguf: GgufFile, fields: Fields) -> bytes:
    """The file's tokenizer as a Hugging Face tokenizer.json."""
    fields.choice("tokenizer.ggml.model", ("gpt2",))
    pre = fields.choice("tokenizer.ggml.pre", tuple(_PRE_TOKENIZERS), "gpt-2")
    tokens = fields.items("tokenizer.ggml.tokens", str)
    kinds = fields.items("tokenizer.ggml.token_type", int)
    merges = fields.items("tokenizer.ggml.merges", str)
    if len(kinds) != len(tokens):
        raise fields.bad("tokenizer.ggml.token_type", f"{len(kinds)} types", f"{len(tokens)}")
    if len(set(tokens)) != len(tokens):
        raise fields.bad("tokenizer.ggml.tokens", "a list with doubles", "different tokens")
    ids = {token: index for index, token in enumerate(tokens)}
    try:
        library = bpe.byte_level_bpe(
            ids, bpe.parse_merges(merges), single_digits=_PRE_TOKENIZERS[pre]
        )
    except Exception as error:
        raise errors.InvalidArgumentError(f"{fields.where}: tokenizer: {error}") from error
    special = (_CONTROL, _USER_DEFINED)
    bpe.add_special(library, [t for t, kind in zip(tokens, kinds, strict=True) if kind in special])
    text: str = library.to_str()
    return text.encode()


if __name__ == "__main__":
    cli.main(convert_gguf)
