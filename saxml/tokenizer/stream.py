"""Text of tokens as they come. It never ends inside a character, and all of it together is what
`decode` gives: that is how `decode` is made."""

from collections.abc import Iterable

from saxml import native
from saxml.tokenizer.base import Tokenizer


class Detokenizer:
    """Text out of one sequence of ids. Each id costs the same, however long the text is.

    Bytes that are no UTF-8 become U+FFFD, one for each maximal subpart, be they in one token or in
    several.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._joining = tokenizer.joining
        self._utf8 = native.Utf8Decoder()
        self._first = True
        self._strip = self._joining.strip_blanks

    def feed(self, ids: Iterable[int]) -> str:
        """The characters that are complete with these ids."""
        return self._stripped(self._utf8.feed(b"".join(map(self._bytes, ids))))

    def finish(self) -> str:
        """U+FFFD if the last character is incomplete, else nothing; no more ids may come."""
        return self._stripped(self._utf8.finish())

    def _bytes(self, token: int) -> bytes:
        if self._skip_special and self._tokenizer.is_special(token):
            return b""
        data = self._tokenizer.token_bytes(token)
        if not data:
            return b""
        first, self._first = self._first, False
        if not first:
            return self._joining.between + data
        return data.replace(b" ", b"") if self._joining.bare_first else data

    def _stripped(self, text: str) -> str:
        while self._strip and text.startswith(" "):
            text = text[1:]
            self._strip -= 1
        if text:
            self._strip = 0
        return text


def decode(tokenizer: Tokenizer, ids: Iterable[int], *, skip_special: bool = False) -> str:
    """The whole text of ids."""
    detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
    return detokenizer.feed(ids) + detokenizer.finish()
