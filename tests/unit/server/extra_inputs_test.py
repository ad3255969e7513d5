"""What a client may send beside the text."""

import math
from typing import Any

import pytest

from saxml.common import errors
from saxml.proto import common_pb2
from saxml.server import extra_inputs

DECLARED: dict[str, Any] = {"temperature": 0.5, "scales": [1.0, 2.0], "note": "x"}


def test_what_is_sent_replaces_defaults() -> None:
    sent = common_pb2.ExtraInputs(
        items={"temperature": 0.25},
        tensors={"scales": common_pb2.Tensor(values=[3, 4])},
        strings={"note": "y"},
    )
    merged = extra_inputs.merge(sent, DECLARED)
    assert merged == {"temperature": 0.25, "scales": [3.0, 4.0], "note": "y"}
    assert DECLARED["temperature"] == 0.5


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (common_pb2.ExtraInputs(items={"beta": 1}), "'beta' is not declared.*temperature"),
        (
            common_pb2.ExtraInputs(items={"note": 1}, strings={"note": "y"}),
            "'note' is given twice",
        ),
        (
            common_pb2.ExtraInputs(tensors={"scales": common_pb2.Tensor(values=[1])}),
            "'scales' has 1 values",
        ),
        (
            common_pb2.ExtraInputs(tensors={"temperature": common_pb2.Tensor(values=[1])}),
            "'temperature' has 1 values",
        ),
    ],
)
def test_other_inputs_are_refused(sent: common_pb2.ExtraInputs, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        extra_inputs.merge(sent, DECLARED)


def parse(**merged: Any) -> extra_inputs.SamplingInputs:
    return extra_inputs.SamplingInputs.parse(merged, temperature=0.7, max_steps=32)


def test_the_configuration_decides_what_is_not_sent() -> None:
    asked = parse()
    assert (asked.temperature, asked.top_k, asked.top_p) == (0.7, 0, 1.0)
    assert (asked.max_steps, asked.seed) == (32, None)


def test_more_steps_than_the_configuration_allows_are_cut() -> None:
    assert parse(per_example_max_decode_steps=5.0).max_steps == 5
    assert parse(per_example_max_decode_steps=500.0).max_steps == 32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("per_example_top_k", 1.5),
        ("top_k", -1.0),
        ("top_p", 1.1),
        ("per_example_max_decode_steps", 0.0),
        ("seed", 2.0**40),
    ],
)
def test_value_out_of_range_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=f"extra input {key} is"):
        parse(**{key: value})


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
    ],
)
def test_stop_strings_stand_one_a_line_or_in_a_json_list(
    value: object, stops: tuple[str, ...]
) -> None:
    assert parse(stop=value).stops == stops


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "is not a list of strings"),
        ("\n\n", r"is empty in string 1 of 3.*JSON list.*\[\"\\n\\n\"\]"),
        ("END\n", "is empty in string 2 of 2"),
        ("\n".join("abcdefghijklmnopq"), "has 17 strings; at most 16"),
        ("x" * 257, "has 257 characters in string 1 of 1; at most 256"),
        ('["\\ud83d"]', "has half of a surrogate pair"),
    ],
)
def test_bad_stop_strings_are_refused(value: object, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=f"extra input stop {message}"):
        parse(stop=value)
