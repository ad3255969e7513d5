"""How many columns a terminal gives to a text."""

import os
import re
import unicodedata

_ANSI = re.compile(r"\x1b\[[0-9;?]*[mK]")
# Format characters (category Cf) that are shown all the same.
_SHOWN_FORMATS = frozenset(
    [*range(0x0600, 0x0606), 0x06DD, 0x08E2, 0x110BD, 0x110CD, *range(0x13430, 0x13439)]
)


def _is_east_asian(environ: dict[str, str]) -> bool:
    if chosen := environ.get("RUNEWIDTH_EASTASIAN"):
        return chosen == "1"
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    return locale.lower().startswith(("zh", "ja", "ko"))


AMBIGUOUS_IS_WIDE = _is_east_asian(dict(os.environ))


def rune_width(rune: str, ambiguous_is_wide: bool = AMBIGUOUS_IS_WIDE) -> int:
    """Columns of one code point: 0, 1 or 2 (Unicode Standard Annex 11).

    Code points are taken one by one: an emoji with a skin tone is 4 columns wide, a flag is 2.
    """
    if " " <= rune <= "~":
        return 1
    category = unicodedata.category(rune)
    if category in ("Mn", "Me", "Cc", "Zl", "Zp", "Cs"):
        return 0
    if category == "Cf" and ord(rune) not in _SHOWN_FORMATS:
        return 0
    kind = unicodedata.east_asian_width(rune)
    if kind in "WF" or (kind == "A" and ambiguous_is_wide):
        return 2
    return 1


def text_width(text: str) -> int:
    """Columns of a text, every visible byte of an ANSI escape sequence counted."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(map(rune_width, text))


def display_width(text: str) -> int:
    """Columns of a text as a terminal shows it: ANSI colours take no room."""
    return text_width(_ANSI.sub("", text) if "\x1b" in text else text)
