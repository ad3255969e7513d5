import math

import pytest

from saxml.saxutil.format import format_float, format_floats, format_shortest


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.023136413097381592, "-0.023136413"),
        (0.0000125, "1.25E-05"),
        (1e8, "1E+08"),
        (12345678.0, "12345678"),
        (0.0, "0"),
        (-0.0, "-0"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (-1e9, "-1E+09"),
        (1e-300, "1E-300"),
    ],
)
def test_eight_digits(value: float, text: str) -> None:
    assert format_float(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (-2.0, "-2"),
        (100000.0, "100000"),
        (1e6, "1e+06"),
        (1234567.5, "1.2345675e+06"),
        (123456.75, "123456.75"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (1e100, "1e+100"),
        (120.0, "120"),
        (-0.0, "-0"),
        (0.0, "0"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-0.02313641309738159, "-0.02313641309738159"),
    ],
)
def test_shortest(value: float, text: str) -> None:
    assert format_shortest(value) == text


def test_shortest_reads_back() -> None:
    for i in range(-40, 40):
        value = math.pi * 10.0**i
        assert float(format_shortest(value)) == value


def test_lists() -> None:
    assert format_floats([1, 0.5]) == "1, 0.5"
    assert format_floats([0.25] * 9, 8) == "0.25, " * 8 + "..."
    assert format_floats([0.25] * 8, 8).endswith("0.25")
