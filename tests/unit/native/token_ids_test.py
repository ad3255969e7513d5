import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saxml import native

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1)


@given(IDS)
def test_reads_what_it_writes(ids: list[int]) -> None:
    text = native.format_token_ids(np.array(ids, np.int32))
    assert text == ",".join(map(str, ids))
    assert native.parse_token_ids(text).tolist() == ids


@given(IDS, st.text(" \t", max_size=3), st.text(" \t\r\n", max_size=3))
def test_skips_blanks(ids: list[int], before: str, after: str) -> None:
    text = ",".join(f"{before}{i}{after}" for i in ids)
    assert native.parse_token_ids(text).tolist() == ids


@given(st.text())
def test_any_text_gives_ids_or_a_value_error(text: str) -> None:
    # int() also takes signs, underscores and digits of other scripts: those are refused.
    pieces = [p.strip(" \t\r\n") for p in text.split(",")]
    good = all(p.isascii() and p.isdigit() and int(p) < 2**31 for p in pieces)
    if good:
        assert native.parse_token_ids(text).tolist() == [int(p) for p in pieces]
    else:
        with pytest.raises(ValueError, match="token id"):
            native.parse_token_ids(text)


def test_result_is_int32_and_owns_its_memory() -> None:
    ids = native.parse_token_ids("1,2")
    assert ids.dtype == np.int32
    ids[0] = 7
    assert ids.tolist() == [7, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'no token ids; give numbers with commas between them, such as "1,2,3"'),
        (" \n", "no token ids"),
        ("1,x2,3", r'token id 2 of 3 is "x2" \(at character 3\)'),
        ("1,2,", r'token id 3 of 3 is "" \(at character 5\)'),
        ("2147483648", 'token id 1 of 1 is "2147483648"'),
        ("-1", "must be a number from 0 to 2147483647"),
        ("é", r'is "\\xc3\\xa9"'),
    ],
)
def test_error_names_the_piece_and_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.parse_token_ids(text)


def test_printing_takes_flat_int32_arrays_only() -> None:
    with pytest.raises(TypeError):
        native.format_token_ids(np.array([1.5]))
    with pytest.raises(ValueError, match="flat array"):
        native.format_token_ids(np.zeros((2, 2), np.int32))
