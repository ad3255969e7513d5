import math

import pytest

from saxml.saxutil.go_flags import (
    FlagSet,
    HelpRequested,
    UsageError,
    parse_duration,
    parse_float32,
)


def flags() -> FlagSet:
    made = FlagSet()
    made.string("extra", "", "text")
    made.boolean("stream", False, "switch")
    made.integer("n", 0, "count")
    made.duration("sax_timeout", "60s", "time")
    return made


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_both_dashes_and_both_ways_to_give_a_value(dashes: str) -> None:
    made = flags()
    rest = made.parse([f"{dashes}extra=a:1", f"{dashes}n", "3", f"{dashes}stream", "x", "-y"])
    assert (made["extra"], made["n"], made["stream"]) == ("a:1", 3, True)
    assert rest == ["x", "-y"]
    assert made.given("n")
    assert not made.given("sax_timeout")
    assert made["sax_timeout"] == 60


def test_switch_takes_its_value_only_behind_an_equals_sign() -> None:
    made = flags()
    assert made.parse(["-stream=false", "-stream=T", "false"]) == ["false"]
    assert made["stream"] is True


def test_single_and_double_dash_alone() -> None:
    assert flags().parse(["-", "-n=1"]) == ["-", "-n=1"]
    assert flags().parse(["--", "-n=1"]) == ["-n=1"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-nope"], "flag provided but not defined: -nope"),
        (["-n"], "flag needs an argument: -n"),
        (["-n=x"], 'invalid value "x" for flag -n: parse error'),
        (["-stream=maybe"], 'invalid boolean value "maybe" for flag -stream: parse error'),
        (["---n"], "bad flag syntax: ---n"),
        (["-=1"], "bad flag syntax: -=1"),
        (["-sax_timeout=60"], 'invalid value "60" for flag -sax_timeout: invalid duration'),
    ],
)
def test_usage_errors(args: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        flags().parse(args)
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help(word: str) -> None:
    with pytest.raises(HelpRequested):
        flags().parse([word])


def test_usage_describes_each_flag() -> None:
    text = flags().usage()
    assert "  -sax_timeout duration\n    \ttime (default 60s)\n" in text
    assert "  -n int\n    \tcount\n" in text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("5ns", 5e-9),
        (".5s", 0.5),
        ("0", 0),
        ("-3s", -3),
        ("+3s", 3),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "60", "1x", "1s ", "-", "1m30", "1 s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("1e3", 1000),
        ("-2", -2),
        ("+.5", 0.5),
        ("5.", 5),
        ("1_000", 1000),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("0x10p0", 16),
        ("1e-99", 1e-99),
    ],
)
def test_numbers(text: str, value: float) -> None:
    assert parse_float32(text) == value


def test_nan() -> None:
    number = parse_float32("NaN")
    assert number is not None
    assert math.isnan(number)


@pytest.mark.parametrize(
    "text", ["", "x", "0x10", "1e99", " 0.5", "0.5 ", "1__0", "_1", "1,5", "--1"]
)
def test_no_numbers(text: str) -> None:
    assert parse_float32(text) is None
