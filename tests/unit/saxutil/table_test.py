import itertools
import random

import pytest

from saxml.saxutil.table import render_csv, render_table, wrap_words
from saxml.saxutil.width import display_width, rune_width, text_width


def test_no_rows() -> None:
    assert render_table(["#", "Cell"], []) == (
        "+---+------+\n| # | CELL |\n+---+------+\n+---+------+\n"
    )


def test_numbers_to_the_right_words_to_the_left_header_centred() -> None:
    rows = [["a", "-1.5"], ["bbbb", "1E-05"], ["12,345", "NaN"], ["1,23", "7."]]
    assert render_table(["x", "Long header"], rows) == (
        "+--------+-------------+\n"
        "|   X    | LONG HEADER |\n"
        "+--------+-------------+\n"
        "| a      |        -1.5 |\n"
        "| bbbb   | 1E-05       |\n"
        "| 12,345 | NaN         |\n"
        "| 1,23   | 7.          |\n"
        "+--------+-------------+\n"
    )


def test_lines_of_a_cell_are_joined_and_wrapped_to_their_own_width() -> None:
    assert render_table(["T"], [["a\nb"]]) == "+---+\n| T |\n+---+\n| a |\n| b |\n+---+\n"


def test_number_line_in_a_wrapped_cell_stands_right() -> None:
    table = render_table(["T"], [["aaaaaaaaaa\n12"]])
    assert "|         12 |" in table
    assert "| aaaaaaaaaa |" in table


def test_row_may_have_fewer_or_more_cells_than_the_header() -> None:
    assert render_table(["A"], [["x", "y"], ["z"]]) == (
        "+---+---+\n| A |   |\n+---+---+\n| x | y |\n| z |\n+---+---+\n"
    )


def test_wide_and_combining_characters() -> None:
    assert display_width("日本") == 4
    assert display_width("e\u0301") == 1
    assert display_width("👍🏽") == 4
    assert display_width("🇫🇷") == 2
    assert display_width("\x1b[31mred\x1b[0m") == 3
    assert text_width("\x1b[31mred\x1b[0m") == 10
    assert display_width("\u200d\ufe0f") == 0


def test_ambiguous_characters_are_wide_where_the_locale_says_so() -> None:
    assert rune_width("½", ambiguous_is_wide=False) == 1
    assert rune_width("½", ambiguous_is_wide=True) == 2
    assert rune_width("a", ambiguous_is_wide=True) == 1


def _cost(lines: list[list[str]], limit: int) -> int:
    return sum(
        (limit - len(" ".join(line))) ** 2 + (100_000 if len(" ".join(line)) > limit else 0)
        for line in lines[:-1]
    )


@pytest.mark.parametrize("seed", range(40))
def test_wrapping_costs_no_more_than_any_other_way(seed: int) -> None:
    rng = random.Random(seed)
    words = ["x" * rng.randint(1, 9) for _ in range(rng.randint(2, 9))]
    limit = rng.randint(9, 20)
    best = None
    for breaks in itertools.product([False, True], repeat=len(words) - 1):
        lines = [[words[0]]]
        for word, new_line in zip(words[1:], breaks, strict=True):
            if new_line:
                lines.append([word])
            else:
                lines[-1].append(word)
        # The last line is free only if it fits, and is the first that would.
        if len(" ".join(lines[-1])) <= limit:
            cost = _cost(lines, limit)
            best = cost if best is None else min(best, cost)
    got = [line.split(" ") for line in wrap_words(words, limit)]
    assert [w for line in got for w in line] == words
    assert best is not None
    if len(" ".join(words)) <= limit:
        assert len(got) == 1
    else:
        assert _cost(got, limit) <= best


def test_long_text_is_fast() -> None:
    rng = random.Random(1)
    text = " ".join("w" * rng.randint(1, 12) for _ in range(5000))
    assert render_table(["T"], [[text]]).count("\n") > 1000


def test_csv_is_not_quoted() -> None:
    assert render_csv(["#", "Model ID", "Methods"], [["0", "gptj", "lm.generate, lm.score"]]) == (
        "# #,Model ID,Methods\n0,gptj,lm.generate, lm.score\n"
    )
