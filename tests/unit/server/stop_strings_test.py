"""How stop strings are spelled."""

import pytest

from saxml.common import errors
from saxml.server import stop_strings


@pytest.mark.parametrize(
    ("value", "stops"),
    [
        (None, ()),
        ("", ()),
        ("END", ("END",)),
        ("END\n# ", ("END", "# ")),
        ('["\\n\\n", "END"]', ("\n\n", "END")),
        (["a", "b"], ("a", "b")),
        ("[1, 2]", ("[1, 2]",)),
        ("[]", ("[]",)),
        ("[INST", ("[INST",)),
        ("[" * 100, ("[" * 100,)),
    ],
)
def test_one_a_line_or_a_json_list(value: object, stops: tuple[str, ...]) -> None:
    assert stop_strings.parse(value, 16) == stops


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "is not a list of strings"),
        ("\n\n", r"is empty in string 1 of 3.*JSON list.*\[\"\\n\\n\"\]"),
        ("END\n", "is empty in string 2 of 2"),
        ("\n".join("abcde"), "has 5 strings; at most 4"),
        ("x" * 257, "has 257 characters in string 1 of 1; at most 256"),
        ('["\\ud83d"]', "has half of a surrogate pair"),
        ("[" * 100_000, "has 100000 characters"),
    ],
)
def test_bad_ones_are_refused(value: object, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=f"extra input stop {message}"):
        stop_strings.parse(value, 4)
