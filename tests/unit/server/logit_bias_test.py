"""How a logit bias is spelled."""

import pytest

from saxml.common import errors
from saxml.server import logit_bias


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, {}),
        ("", {}),
        ("7=-100", {7: -100.0}),
        (" 7=-100  11=2.5 0=1e1", {7: -100.0, 11: 2.5, 0: 10.0}),
        ('{"7": -100, "11": 2.5}', {7: -100.0, 11: 2.5}),
        ("{}", {}),
    ],
)
def test_pairs_or_a_json_object(value: object, wanted: dict[int, float]) -> None:
    assert logit_bias.parse(value, 100) == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, r"is 3\.0; write 50256=-100"),
        ("7", "bias of token 7 is '', which is not a number"),
        ("7=x", "bias of token 7 is 'x'"),
        ("7=nan", "bias of token 7 is 'nan'"),
        ('{"7": Infinity}', "bias of token 7 is 'inf'"),
        ('{"7": true}', "bias of token 7"),
        ('{"7": {"8": 1}}', "bias of token 7"),
        ("a=1", "'a' is not a token id"),
        ("-1=1", "'-1' is not a token id"),
        ("1.0=1", r"'1\.0' is not a token id"),
        ("100=1", "token 100 is outside the vocabulary of 100"),
        ("7=1 7=2", "token 7 is given twice"),
        ('{"7": 1, "7": 2}', "token 7 is given twice"),
        ('{"7": 1', "is not JSON"),
        ('{"a":' * 100_000, "is not JSON"),
    ],
)
def test_bad_ones_are_refused(value: object, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=f"extra input logit_bias.*{message}"):
        logit_bias.parse(value, 100)
