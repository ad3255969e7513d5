"""What a client may send beside the text."""

import itertools
import math
import pathlib
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
            common_pb2.ExtraInputs(tensors={"note": common_pb2.Tensor(values=[1])}),
            "'note' has 1 values",
        ),
    ],
)
def test_other_inputs_are_refused(sent: common_pb2.ExtraInputs, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        extra_inputs.merge(sent, DECLARED)


def test_keys_of_ours_need_no_declaration() -> None:
    sent = common_pb2.ExtraInputs(items={"min_p": 0.1, "priority": 2})
    assert extra_inputs.merge(sent, {}, always=extra_inputs.GENERATE_KEYS) == {
        "min_p": pytest.approx(0.1),
        "priority": 2,
    }
    with pytest.raises(errors.InvalidArgumentError, match="'min_p' is for sampling, which this"):
        extra_inputs.merge(sent, {}, always=extra_inputs.BEAM_KEYS)
    with pytest.raises(errors.InvalidArgumentError, match="takes: cache_salt, priority"):
        extra_inputs.merge(sent, {}, always=extra_inputs.REQUEST_KEYS)


def test_temperature_may_be_a_tensor_though_its_default_is_a_number() -> None:
    sent = common_pb2.ExtraInputs(tensors={"temperature": common_pb2.Tensor(values=[1, 2, 3])})
    assert extra_inputs.merge(sent, DECLARED)["temperature"] == [1, 2, 3]
    with pytest.raises(errors.InvalidArgumentError, match="3 values"):
        extra_inputs.merge(sent, {"temperature": [0.5, 0.5]})


@pytest.mark.parametrize("value", [1.5, math.inf, math.nan, 2.0**31])
def test_dtype_int32_takes_whole_numbers_only(value: float) -> None:
    dtypes = {"scales": "int32", "temperature": "float32"}
    good = common_pb2.ExtraInputs(tensors={"scales": common_pb2.Tensor(values=[3, -(2.0**31)])})
    merged = extra_inputs.merge(good, DECLARED, dtypes=dtypes)
    assert merged["scales"] == [3, -(2**31)]
    assert all(isinstance(v, int) for v in merged["scales"])
    bad = common_pb2.ExtraInputs(tensors={"scales": common_pb2.Tensor(values=[3, value])})
    with pytest.raises(errors.InvalidArgumentError, match=r"scales.*EXTRA_INPUTS_DTYPES"):
        extra_inputs.merge(bad, DECLARED, dtypes=dtypes)


def test_documentation_names_every_key_of_ours() -> None:
    lines = pathlib.Path("docs/client.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Ours are taken by every"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 4 :])
    keys = {key for row in rows for key in row.split("|")[1].strip().split(", ")}
    assert keys == extra_inputs.GENERATE_KEYS
