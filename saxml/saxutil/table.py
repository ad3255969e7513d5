"""The tables that saxutil prints.

They are those of tablewriter 0.0.4, which scripts parse: upper-cased centred header, numbers to
the right, cells wrapped at 30 columns with the least raggedness.
"""

import re
from collections.abc import Sequence

from saxml.saxutil.width import display_width, text_width

MAX_CELL_WIDTH = 30
_TOO_LONG = 100_000
_NUMBER = re.compile(r"-?([0-9]{1,3}(,[0-9]{3})*|[0-9]+)(\.[0-9]+)?")
_FILLER = "  "


def wrap_words(words: Sequence[str], limit: int) -> list[str]:
    """Breaks words into lines of at most `limit` columns with the least sum of squared slack.

    Whatever fits into the last line costs nothing; of equally good layouts the one with the
    shortest first line wins. A line past the limit is a last resort (it costs 100,000).
    """
    widths = [text_width(word) for word in words]
    count = len(words)
    cost = [0] * count
    line_end = [count] * count
    rest = -1  # width of words[i:] on one line
    for i in range(count - 1, -1, -1):
        rest += widths[i] + 1
        if rest <= limit:
            continue
        best: int | None = None
        length = -1
        for j in range(i + 1, count):
            length += widths[j - 1] + 1
            penalty = (limit - length) ** 2 + (_TOO_LONG if length > limit else 0)
            if best is None or penalty + cost[j] < best:
                best, line_end[i] = penalty + cost[j], j
            elif length > limit and penalty >= best:
                break  # longer lines only cost more
        cost[i] = best or 0
    lines = []
    i = 0
    while i < count:
        lines.append(" ".join(words[i : line_end[i]]))
        i = line_end[i]
    return lines


def _layout(cell: str) -> tuple[list[str], int]:
    """Printed lines of a cell and the columns they ask for."""
    lines = cell.split("\n")
    width = min(MAX_CELL_WIDTH, max(map(display_width, lines)))
    words = " ".join(lines).split(" ")
    wrapped = wrap_words(words, max(width, *map(text_width, words)))
    return wrapped, max(width, *map(display_width, wrapped))


def _title(text: str) -> str:
    """Header text: upper case, "_" and every "." that is not part of a number as blanks."""
    runes = list(text)
    last = len(runes) - 1
    for i, rune in enumerate(runes):
        if rune == "_":
            runes[i] = " "
        elif rune == ".":
            before = runes[i - 1] if i > 0 else " "
            after = runes[i + 1] if i < last else " "
            if before not in "0123456789 " or after not in "0123456789 ":
                runes[i] = " "
    title = "".join(runes).strip() or (" " if text else "")
    return "".join(r.upper() if len(r.upper()) == 1 else r for r in title)


def _centred(text: str, width: int) -> str:
    gap = max(0, width - display_width(text))
    return " " * (gap // 2) + text + " " * (gap - gap // 2)


def _aligned(text: str, width: int) -> str:
    padding = " " * max(0, width - display_width(text))
    return padding + text if _NUMBER.fullmatch(text.strip()) else text + padding


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The printed table, a line break at its end.

    Rows may have more or fewer cells than the header: columns that the header does not name get
    an empty header cell, a short row ends after its own cells.
    """
    columns = max(len(header), *(len(row) for row in rows)) if rows else len(header)
    heads = [_layout(text) for text in [*header, *[""] * (columns - len(header))]]
    cells = [[_layout(text) for text in row] for row in rows]
    widths = [width for _, width in heads]
    for row in cells:
        for column, (_, width) in enumerate(row):
            widths[column] = max(widths[column], width)

    border = "+" + "".join("-" * (width + 2) + "+" for width in widths)
    out = [border]
    for line in range(max((len(lines) for lines, _ in heads), default=0)):
        shown = [_title(lines[line]) if line < len(lines) else _FILLER for lines, _ in heads]
        out.append("|" + "".join(f" {_centred(t, widths[i])} |" for i, t in enumerate(shown)))
    out.append(border)
    for row in cells:
        for line in range(max((len(lines) for lines, _ in row), default=0)):
            shown = [lines[line] if line < len(lines) else _FILLER for lines, _ in row]
            out.append("|" + "".join(f" {_aligned(t, widths[i])} |" for i, t in enumerate(shown)))
    out.append(border)
    return "\n".join(out) + "\n"


def render_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as comma-joined lines, the header marked with "# "; values are not quoted."""
    return "".join(",".join(row) + "\n" for row in [["# " + header[0], *header[1:]], *rows])
