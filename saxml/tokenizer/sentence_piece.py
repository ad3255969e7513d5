"""SentencePiece models (Kudo and Richardson 2018): the .model files of Llama 2, Gemma, T5."""

import re
from collections.abc import Iterable
from typing import Any

import sentencepiece
import sentencepiece.sentencepiece_model_pb2

from saxml.common import errors
from saxml.tokenizer.base import Joiner
from saxml.tokenizer.damage import damaged
from saxml.tokenizer.stream import StreamDecoding

_BLANK = "▁"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_pb2: Any = sentencepiece.sentencepiece_model_pb2
_Piece = _pb2.ModelProto.SentencePiece


class SentencePieceTokenizer(StreamDecoding):
    """A Tokenizer on top of the `sentencepiece` library.

    The library never finds control pieces, <s> say, in a text; with `special` they are looked for
    first, and what is between them is encoded as texts of their own. Ids of the unknown piece give
    its surface, " ⁇ ", as in the library.
    """

    def __init__(
        self,
        data: bytes,
        where: str,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
    ) -> None:
        """`where` names the file in errors. Raises InvalidArgumentError for what is no model,
        UnimplementedError for one whose texts are changed again after decoding."""
        with damaged(f"{where} is not a SentencePiece model"):
            model = _pb2.ModelProto.FromString(data)
            _check(model)
            self._library = sentencepiece.SentencePieceProcessor(model_proto=data)
        if model.denormalizer_spec.precompiled_charsmap:
            raise errors.UnimplementedError(
                f"{where}: the model has denormalizer rules, which change a text once it is whole;"
                " SAX gives texts out token by token"
            )
        self.vocab_size = len(model.pieces)
        self.bos_id = self._own(self._library.bos_id()) if bos_id is None else bos_id
        self.eos_id = self._own(self._library.eos_id()) if eos_id is None else eos_id
        surface = model.trainer_spec.unk_surface.encode()
        self._bytes = [_bytes_of(piece, surface) for piece in model.pieces]
        self._control = {p.piece: i for i, p in enumerate(model.pieces) if p.type == _Piece.CONTROL}
        self._special = frozenset(self._control.values())
        self._names = _any_of(self._control)
        # Pieces that may lose a blank at the start of a text.
        self._blank_first = frozenset(
            i
            for i, p in enumerate(model.pieces)
            if p.piece.startswith(_BLANK) and p.type not in (_Piece.UNKNOWN, _Piece.CONTROL)
        )
        spec = model.normalizer_spec
        self._drops_blanks = spec.remove_extra_whitespaces
        self._drops_blank = spec.add_dummy_prefix or spec.remove_extra_whitespaces

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """See Tokenizer."""
        if not special or self._names is None or not self._names.search(text):
            return self._plain(text)
        ids: list[int] = []
        # What the expression catches comes at the odd places.
        for place, part in enumerate(self._names.split(text)):
            if place % 2:
                ids.append(self._control[part])
            elif part:
                ids += self._plain(part)
        return ids

    def token_bytes(self, token: int) -> bytes:
        """See Tokenizer."""
        return self._bytes[token] if 0 <= token < self.vocab_size else b""

    def is_special(self, token: int) -> bool:
        """See Tokenizer."""
        return token in self._special

    def joiner(self) -> Joiner:
        """See Tokenizer. The blank that encoding puts in front of a text is taken off again; off
        a model that keeps no blanks at the start, all of them."""
        if not self._drops_blank:
            return self.token_bytes
        at_start = True

        def add(token: int) -> bytes:
            nonlocal at_start
            data = self.token_bytes(token)
            if not at_start or not data:
                return data
            if token in self._blank_first:
                data = data[1:]
                at_start = self._drops_blanks and not data
            else:
                at_start = False
            return data

        return add

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, out_type=int)
        return ids

    def _own(self, token: int) -> int | None:
        return token if token >= 0 else None


def _check(model: Any) -> None:
    if not model.pieces:
        raise ValueError("it has no pieces")
    # Text that is no UTF-8 comes as bytes.
    if not isinstance(model.trainer_spec.unk_surface, str):
        raise ValueError("unk_surface is no UTF-8")
    for number, piece in enumerate(model.pieces):
        if not isinstance(piece.piece, str):
            raise ValueError(f"piece {number} is no UTF-8")
        if piece.type == _Piece.BYTE and not _BYTE_PIECE.match(piece.piece):
            raise ValueError(f"piece {number}, {piece.piece[:40]!r}, is no byte like <0x0A>")


def _bytes_of(piece: Any, unknown: bytes) -> bytes:
    text: str = piece.piece
    if piece.type == _Piece.BYTE:
        return bytes([int(text[3:5], 16)])
    if piece.type == _Piece.UNKNOWN:
        return unknown
    if piece.type == _Piece.CONTROL:
        return text.encode()
    return text.replace(_BLANK, " ").encode()


def _any_of(names: Iterable[str]) -> re.Pattern[str] | None:
    """Finds the longest of the names."""
    ordered = sorted((n for n in names if n), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None
