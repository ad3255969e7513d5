"""Text of tokens as they come. It never ends inside a character, and all of it together is what
`decode` gives: that is how `decode` is made."""

from collections.abc import Iterable, Sequence

from saxml import native
from saxml.tokenizer.base import Tokenizer, clean_up_spaces


class Detokenizer:
    """Text out of one sequence of ids. Each id costs the same, however long the text is.

    Bytes that are no UTF-8 become U+FFFD, one for each maximal subpart, be they in one token or in
    several.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._is_skipped = tokenizer.is_special if skip_special else _none
        self._join = tokenizer.joiner()
        self._utf8 = native.Utf8Decoder()

    def feed(self, ids: Iterable[int]) -> str:
        """The characters that are complete with these ids."""
        return self._utf8.feed(b"".join(self._join(i) for i in ids if not self._is_skipped(i)))

    def finish(self) -> str:
        """U+FFFD if the last character is incomplete, else nothing; no more ids may come."""
        return self._utf8.finish()


def _none(token: int) -> bool:
    return False


class StreamDecoding:
    """The `decode` of a Tokenizer, by its joiner."""

    def decode(
        self: Tokenizer, ids: Sequence[int], *, skip_special: bool = False, clean_up: bool = False
    ) -> str:
        """See Tokenizer."""
        detokenizer = Detokenizer(self, skip_special=skip_special)
        text = detokenizer.feed(ids) + detokenizer.finish()
        return clean_up_spaces(text) if clean_up else text
