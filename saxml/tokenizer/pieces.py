"""What a piece of a vocabulary stands for, by the decoder that a tokenizer.json states."""

import dataclasses
import functools
import re
from typing import Any

from saxml.common import errors

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>$")
# In this order, each at most once but Replace; any may be missing.
_SENTENCE_PIECE = ("Replace", "Metaspace", "ByteFallback", "Fuse", "Strip")


@dataclasses.dataclass(frozen=True, slots=True)
class Joining:
    """How the bytes of tokens are put together. Ids without bytes do not count."""

    between: bytes = b""
    # Blanks taken off the start of a text, if it has so many.
    strip_blanks: int = 0
    # Whether the first token loses its blanks.
    bare_first: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PieceRules:
    """Pieces to bytes, token by token, and how these are joined.

    byte_level      pieces are written in GPT-2's stand-ins for bytes
    replacements    what is written otherwise in the vocabulary than in texts: "▁" for a blank
    byte_fallback   <0xNN> stands for one byte
    """

    byte_level: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    joining: Joining = dataclasses.field(default_factory=Joining)

    def bytes_of(self, piece: str) -> bytes:
        """The bytes of a piece."""
        if self.byte_level:
            table = _bytes_of_characters()
            if all(c in table for c in piece):
                return bytes(table[c] for c in piece)
            return piece.encode()
        for written, meant in self.replacements:
            piece = piece.replace(written, meant)
        if self.byte_fallback and (raw := _BYTE_PIECE.match(piece)):
            return bytes([int(raw.group(1), 16)])
        return piece.encode()


class PieceJoiner:
    """The bytes of one text from those of its tokens."""

    def __init__(self, joining: Joining) -> None:
        self._joining = joining
        self._first = True
        self._strip = joining.strip_blanks

    def add(self, data: bytes) -> bytes:
        """What the bytes of one more token add."""
        if not data:
            return b""
        first, self._first = self._first, False
        if not first:
            data = self._joining.between + data
        elif self._joining.bare_first:
            data = data.replace(b" ", b"")
        while self._strip and data.startswith(b" "):
            data = data[1:]
            self._strip -= 1
        if data:
            self._strip = 0
        return data


def rules_of(decoder: dict[str, Any] | None) -> PieceRules:
    """The rules of a tokenizer.json's decoder: byte-level (GPT-2, Llama 3), SentencePiece-like
    (Llama 2, Gemma) or none.

    Raises UnimplementedError for one whose text of a token depends on what comes after.
    """
    if decoder is None:
        return PieceRules(joining=Joining(between=b" "))
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
        return PieceRules(byte_level=True)
    rules: PieceRules | None = PieceRules()
    last = 0
    for kind, step in zip(kinds, steps, strict=True):
        place = _SENTENCE_PIECE.index(kind) if kind in _SENTENCE_PIECE else -1
        if rules is not None and (place > last or place == last == 0):
            rules, last = _extended(rules, step, fused="Fuse" in kinds), place
        else:
            rules = None
    if rules is None:
        raise errors.UnimplementedError(
            f"the tokenizer's decoder is {', '.join(kinds)}; SAX knows ByteLevel, and Replace,"
            " Metaspace, ByteFallback, Fuse and Strip (blanks at the start) in this order"
        )
    return rules


def _extended(rules: PieceRules, step: dict[str, Any], *, fused: bool) -> PieceRules | None:
    """The rules with one step more; None for a step that we do not know."""
    match step:
        case {"type": "Replace", "pattern": {"String": written}, "content": meant}:
            replacements = (*rules.replacements, (written, meant))
            return dataclasses.replace(rules, replacements=replacements)
        case {"type": "Metaspace", "replacement": written, "prepend_scheme": scheme}:
            replacements = (*rules.replacements, (written, " "))
            joining = Joining(bare_first=scheme != "never")
            return dataclasses.replace(rules, replacements=replacements, joining=joining)
        case {"type": "ByteFallback"}:
            return dataclasses.replace(rules, byte_fallback=True)
        case {"type": "Strip", "content": " ", "start": start, "stop": 0} if fused:
            joining = dataclasses.replace(rules.joining, strip_blanks=start)
            return dataclasses.replace(rules, joining=joining)
        case {"type": "Fuse"}:
            return rules
    return None


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (Radford et al. 2019, encoder.py): printable
    Latin-1 characters stand for themselves, the others count up from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}
