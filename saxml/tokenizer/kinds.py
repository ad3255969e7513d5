"""What kind of tokenizer a file holds, by what is in it."""

import json
from typing import Literal

from saxml.common import errors
from saxml.tokenizer.damage import damaged
from saxml.tokenizer.rank_file import looks_like_ranks

# "vocabulary" is GPT-2's, which is half a tokenizer: its merges are a file of their own.
Kind = Literal["hf_json", "vocabulary", "sentencepiece", "tiktoken"]

_STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself (git lfs pull)"),
    (b"#version", "the merges of a GPT-2 vocabulary: name the folder, or the vocabulary"),
    (b"\x80", "a Python pickle, which is never loaded"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"<", "a page of markup"),
)
_WANTED = (
    "wanted a tokenizer.json, a SentencePiece model, a file of token ranks (tiktoken) or GPT-2's"
    " vocabulary"
)


def kind_of(data: bytes, where: str) -> Kind:
    """The kind of the file `where` with these bytes. Raises InvalidArgumentError for one that is
    none."""
    for start, what in _STRANGERS:
        if data.startswith(start):
            raise errors.InvalidArgumentError(f"{where} is {what}; {_WANTED}")
    if data[:64].lstrip()[:1] == b"{":
        return _kind_of_json(data, where)
    if looks_like_ranks(data):
        return "tiktoken"
    # A ModelProto starts with its first piece: field 1, a message.
    if data.startswith(b"\n"):
        return "sentencepiece"
    raise errors.InvalidArgumentError(f"{where} is no tokenizer; {_WANTED}")


def _kind_of_json(data: bytes, where: str) -> Kind:
    with damaged(f"{where} is not JSON"):
        parsed = json.loads(data)
    if isinstance(parsed.get("model"), dict):
        return "hf_json"
    if parsed and all(type(i) is int for i in parsed.values()):
        return "vocabulary"
    raise errors.InvalidArgumentError(
        f"{where} is neither a tokenizer.json, which has an object 'model', nor a vocabulary, which"
        " gives each token its id"
    )
