"""Tokenizers that the `tokenizers` library runs: Hugging Face's tokenizer.json, GPT-2's files."""

import functools
import json
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from saxml.tokenizer.base import Joiner
from saxml.tokenizer.damage import damaged
from saxml.tokenizer.pieces import Joining, PieceJoiner, rules_of
from saxml.tokenizer.stream import StreamDecoding

_END_OF_TEXT = "<|endoftext|>"


class LibraryTokenizer(StreamDecoding):
    """A Tokenizer on top of the `tokenizers` library."""

    def __init__(
        self,
        library: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
    ) -> None:
        self._library = library
        self._rules = rules_of(json.loads(library.to_str())["decoder"])
        added = library.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)
        # Named as they are, whatever the other pieces are written in.
        self._bytes = (
            {i: token.content.encode() for i, token in added.items()}
            if self._rules.byte_level
            else {}
        )
        ids = library.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        self.bos_id = bos_id
        self.eos_id = eos_id

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """See Tokenizer. Added tokens that are not special are found in any text."""
        library = self._library if special else self._without_special
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token: int) -> bytes:
        """See Tokenizer."""
        known = self._bytes.get(token)
        if known is None:
            piece = self._library.id_to_token(token)
            if piece is None:
                return b""
            known = self._bytes[token] = self._rules.bytes_of(piece)
        return known

    def is_special(self, token: int) -> bool:
        """See Tokenizer."""
        return token in self._special

    def joiner(self) -> Joiner:
        """See Tokenizer."""
        if self._rules.joining == Joining():
            return self.token_bytes
        joiner = PieceJoiner(self._rules.joining)
        return lambda token: joiner.add(self.token_bytes(token))

    @functools.cached_property
    def _without_special(self) -> tokenizers.Tokenizer:
        """Takes the names of special tokens for text. An object of its own: it is a setting of the
        whole tokenizer, which several threads use."""
        library = tokenizers.Tokenizer.from_str(self._library.to_str())
        library.encode_special_tokens = True
        return library


def hugging_face(
    data: bytes, where: str, *, bos_id: int | None = None, eos_id: int | None = None
) -> LibraryTokenizer:
    """The tokenizer of a tokenizer.json. `where` names the file in errors."""
    with damaged(f"{where} is not a tokenizer.json"):
        library = tokenizers.Tokenizer.from_buffer(data)
        library.no_truncation()
        library.no_padding()
        return LibraryTokenizer(library, bos_id=bos_id, eos_id=eos_id)


def put_in_front(data: bytes, where: str) -> list[int]:
    """The ids that a tokenizer.json puts in front of each text when it is asked for special tokens;
    those behind it too, if there is one in front."""
    with damaged(f"{where} is not a tokenizer.json"):
        ids: list[int] = tokenizers.Tokenizer.from_buffer(data).encode("").ids
        return ids


def gpt2(
    vocabulary: bytes,
    merges: bytes,
    where: str,
    *,
    bos_id: int | None = None,
    eos_id: int | None = None,
) -> LibraryTokenizer:
    """GPT-2's encoding from encoder.json (or vocab.json) and vocab.bpe (or merges.txt)."""
    with damaged(f"{where}: not the vocabulary and merges of GPT-2"):
        ids = json.loads(vocabulary)
        pairs = parse_merges(merges.decode().splitlines())
        library = byte_level_bpe(ids, pairs, single_digits=False)
    end = ids.get(_END_OF_TEXT)
    if end is not None:
        library.add_special_tokens([_special(_END_OF_TEXT)])
    return LibraryTokenizer(
        library,
        bos_id=end if bos_id is None else bos_id,
        eos_id=end if eos_id is None else eos_id,
    )


def byte_level_bpe(
    ids: Mapping[str, int], merges: list[tuple[str, str]], *, single_digits: bool
) -> tokenizers.Tokenizer:
    """Byte-pair encoding as GPT-2 does it; with `single_digits`, each digit is a token (SmolLM)."""
    library = tokenizers.Tokenizer(models.BPE(vocab=dict(ids), merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        if single_digits
        else byte_level
    )
    library.decoder = decoders.ByteLevel()
    return library


def add_special(library: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    """Makes tokens of the vocabulary special: found in texts as they are, left out by
    skip_special."""
    library.add_special_tokens([_special(name) for name in names])


def parse_merges(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of a merges file; a first line "#version: ..." is skipped."""
    pairs = []
    for number, line in enumerate(lines):
        if not line or (number == 0 and line.startswith("#version")):
            continue
        left, blank, right = line.partition(" ")
        if not (left and blank and right) or " " in right:
            raise ValueError(f"merge {number + 1} is {line!r}, wanted two tokens")
        pairs.append((left, right))
    return pairs


def _special(name: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(name, special=True, normalized=False)
