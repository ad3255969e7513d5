"""What the rest of SAX needs of a tokenizer."""

from collections.abc import Callable, Sequence
from typing import Protocol

# Gives the bytes that one more token adds to a text; called with its tokens in order.
Joiner = Callable[[int], bytes]


class Tokenizer(Protocol):
    """Text to token ids and back. Neither adds a start or an end token by itself."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def bos_id(self) -> int | None:
        """The id that starts a text, if the model has one."""

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text, if it is known."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text.

        special: whether the names of special tokens in it, <|im_start|> say, become those tokens.
        Without, they are text like any other: what is not trusted to steer the model goes in so.
        """

    def decode(
        self, ids: Sequence[int], *, skip_special: bool = False, clean_up: bool = False
    ) -> str:
        """Text of ids; ids without a token give nothing, bytes that are no UTF-8 give U+FFFD (see
        saxml.tokenizer.stream, which gives the same text token by token).

        `skip_special` leaves special tokens out. `clean_up` takes out the blank before full stops,
        commas and the like, which is what Hugging Face's `clean_up_tokenization_spaces` does.
        """

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for inside a text, those of its name for a special token;
        b"" for an id without a token."""

    def is_special(self, token: int) -> bool:
        """Whether `skip_special` leaves it out."""

    def joiner(self) -> Joiner:
        """Puts one text together. It gives token_bytes but where the start of a text or what is
        between two tokens has rules of its own."""


# Applied in this order by Hugging Face's tokenizers.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up_spaces(text: str) -> str:
    """Takes out the blanks that `clean_up_tokenization_spaces` takes out."""
    for spaced, tight in _CLEAN_UP:
        text = text.replace(spaced, tight)
    return text
