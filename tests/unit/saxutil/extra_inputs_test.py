import pytest

from saxml.common.errors import InvalidArgumentError
from saxml.saxutil.extra_inputs import parse_extra_inputs


@pytest.mark.parametrize(
    ("text", "items", "strings"),
    [
        ("", {}, {}),
        ("temperature:0.5,top_k:40", {"temperature": 0.5, "top_k": 40}, {}),
        ("a:'/foo/bar',b:\"x\"", {}, {"a": "/foo/bar", "b": "x"}),
        ("a:word", {}, {"a": "word"}),
        ("a:", {}, {"a": ""}),
        (":5", {"": 5}, {}),
        ("a:0x10,b:1e99,c: 0.5", {}, {"a": "0x10", "b": "1e99", "c": " 0.5"}),
        ("a:'5'", {}, {"a": "5"}),
        ("a:'", {}, {"a": "'"}),
        ("a:1,a:2", {"a": 2}, {}),
        ("a:1,a:x", {}, {"a": "x"}),
        ("a:x,a:1", {"a": 1}, {}),
    ],
)
def test_pairs(text: str, items: dict[str, float], strings: dict[str, str]) -> None:
    extra = parse_extra_inputs(text)
    assert dict(extra.items) == items
    assert dict(extra.strings) == strings


@pytest.mark.parametrize("text", ["a", "a:1,", "a:1:2", "a:1,b", ",", "a='x:y,z'"])
def test_pair_without_exactly_one_colon(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="must be separated by ':'"):
        parse_extra_inputs(text)
