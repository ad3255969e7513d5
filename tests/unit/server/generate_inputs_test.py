"""What a request asks of its generation."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saxml.common import errors
from saxml.proto import common_pb2
from saxml.server import extra_inputs
from saxml.server.generate_inputs import GenerateInputs
from saxml.server.pax.lm.params.template import CommonServingTemplate

_DECLARED: Any = {
    "per_example_max_decode_steps": None,
    "per_example_top_k": None,
    "per_example_top_p": None,
    "top_k": None,
    "top_p": None,
    "eos_id": [0, 0, 0],
    "temperature": 0.75,
}


class Params(CommonServingTemplate):
    NUM_SAMPLES: Any = 2
    MAX_NUM_SAMPLES: Any = 4
    EXTRA_INPUTS: Any = _DECLARED


def parse(sent: dict[str, Any], **overrides: str) -> GenerateInputs:
    extra = common_pb2.ExtraInputs()
    for key, value in sent.items():
        if isinstance(value, str):
            extra.strings[key] = value
        elif isinstance(value, list):
            extra.tensors[key].values.extend(value)
        else:
            extra.items[key] = value
    return GenerateInputs.parse(extra, Params(overrides), 100, lambda: 77)


def test_the_configuration_decides_what_is_not_sent() -> None:
    asked = parse({})
    s = asked.sampling
    assert (s.temperature, s.top_k, s.top_p, s.min_p, s.seed) == (0.75, 0, 1.0, 0.0, 77)
    assert not s.has_penalties
    assert (asked.num_samples, asked.max_steps, asked.eos, asked.stops) == (2, 32, (), ())
    assert (asked.request.priority, asked.request.cache_salt) == (0, 0)


def test_every_input_arrives() -> None:
    asked = parse(
        {
            "temperature": [0.5, 1.0, 0.0],
            "num_samples": 3,
            "top_k": 5,
            "top_p": 0.5,
            "min_p": 0.25,
            "seed": 9,
            "per_example_max_decode_steps": 7,
            "min_decode_steps": 3,
            "repetition_penalty": 1.5,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "logit_bias": "7=-100 11=2.5",
            "eos_id": [0, 12, 13],
            "stop": "END",
            "priority": -5,
            "cache_salt": "tenant 1",
        }
    )
    s = asked.sampling
    assert s.temperature == (0.5, 1.0, 0.0)
    assert (s.top_k, s.top_p, s.min_p, s.seed, s.min_steps) == (5, 0.5, 0.25, 9, 3)
    assert (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) == (1.5, 0.5, -0.5)
    assert s.logit_bias == {7: -100.0, 11: 2.5}
    assert (asked.num_samples, asked.max_steps, asked.eos) == (3, 7, (12, 13))
    assert (asked.stops, asked.request.priority) == (("END",), -5)
    assert 0 < asked.request.cache_salt < 2**64


def test_more_steps_than_the_configuration_allows_are_cut() -> None:
    assert parse({"per_example_max_decode_steps": 500}).max_steps == 32


def test_seed_beyond_what_a_float_holds_is_a_string() -> None:
    assert parse({"seed": "2147483647"}).sampling.seed == 2147483647


def test_salts_differ_as_their_strings_do() -> None:
    def salt(text: str) -> int:
        return parse({"cache_salt": text}).request.cache_salt

    assert salt("a") == salt("a")
    assert len({salt(text) for text in ("", "a", "b", "a ", "ä")}) == 5


@pytest.mark.parametrize(
    ("value", "eos"), [(0, ()), (13, (13,)), ([0, 0, 0], ()), ([0, 5, 0], (5, 0)), ([5, 6, 7],) * 2]
)
def test_eos_is_a_sequence_with_zeros_before_it(value: Any, eos: Any) -> None:
    assert parse({"eos_id": value}).eos == tuple(eos)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperature", -0.5, r"temperature is -0\.5; must be a number from 0"),
        ("temperature", math.nan, "temperature is nan"),
        ("temperature", math.inf, "temperature is inf"),
        ("temperature", "hot", "temperature is 'hot'"),
        ("temperature", [1.0, -1.0], r"temperature of sample 1 is -1\.0"),
        ("temperature", [1.0], "temperature has 1 values for 2 samples"),
        ("per_example_top_k", 1.5, r"per_example_top_k is 1\.5; must be a whole number"),
        ("top_k", -1, "top_k is -1"),
        ("per_example_top_p", 1.5, r"per_example_top_p is 1\.5"),
        ("top_p", -0.5, r"top_p is -0\.5; must be a number from 0 to 1"),
        ("min_p", 2, "min_p is 2"),
        ("per_example_max_decode_steps", 0, "per_example_max_decode_steps is 0"),
        ("min_decode_steps", -1, "min_decode_steps is -1"),
        ("repetition_penalty", 0, "repetition_penalty is 0"),
        ("presence_penalty", 3, "presence_penalty is 3"),
        ("frequency_penalty", "x", "frequency_penalty is 'x'"),
        ("logit_bias", "7=200", "logit_bias of token 7 is 200"),
        ("seed", 2.0**40, "seed is 1099511627776"),
        ("seed", "-1", "seed is '-1'"),
        ("seed", 0.5, r"seed is 0\.5"),
        ("num_samples", 5, r"num_samples is 5\.0; must be a whole number from 1 to 4"),
        ("num_samples", 0, "num_samples is 0"),
        ("eos_id", 100, "eos_id is 100"),
        ("eos_id", 1.5, r"eos_id is 1\.5"),
        ("eos_id", [1], "'eos_id' has 1 values"),
        ("stop", 5, "stop is not a list of strings"),
        ("priority", 101, "priority is 101.0; must be a whole number from -100 to 100"),
        ("cache_salt", 5, r"cache_salt is '5\.0'"),
        ("cache_salt", "x" * 257, "cache_salt"),
        ("seed", [1, 2], "'seed' has 2 values"),
        ("gamma", 1, "'gamma' is not declared by this method; it takes: cache_salt"),
    ],
)
def test_value_out_of_range_is_refused_by_name(key: str, value: Any, message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=f"extra input .*{message}"):
        parse({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("min_p", 0.5),
        ("stop", "END"),
        ("logit_bias", "1=1"),
        ("num_samples", 2),
        ("eos_id", 5),
    ],
)
def test_beams_refuse_what_only_samples_heed(key: str, value: Any) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=f"{key}.*(beam|sampling)"):
        parse({key: value}, USE_BEAM_SEARCH="true")
    asked = parse({"temperature": 1, "min_decode_steps": 3}, USE_BEAM_SEARCH="true")
    assert asked.sampling.min_steps == 3


def test_the_configuration_bounds_priorities() -> None:
    assert parse({"priority": 3}, MAX_PRIORITY="3").request.priority == 3
    assert parse({}, MAX_PRIORITY="-7").request.priority == -7
    with pytest.raises(errors.InvalidArgumentError, match=r"priority is 4.0; .* from -100 to 3"):
        parse({"priority": 4}, MAX_PRIORITY="3")
    with pytest.raises(errors.InvalidArgumentError, match="must be from -100 to 100"):
        parse({}, MAX_PRIORITY="101")


def test_a_declared_default_counts_as_if_it_were_sent() -> None:
    declared = '{"seed": 5, "stop": ["END"], "temperature": 0.5}'
    asked = parse({}, EXTRA_INPUTS=declared)
    assert (asked.sampling.seed, asked.stops) == (5, ("END",))


_VALUES = st.one_of(
    st.floats(width=32),
    st.integers(-(2**24), 2**24).map(float),
    st.lists(st.floats(width=32), max_size=5),
    st.text('a19=.,-[]{}"\n é', max_size=12),
    st.sampled_from(["1=2", '{"1": 2}', '["a"]', "7", "[", "{"]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from([*sorted(extra_inputs.GENERATE_KEYS), *_DECLARED, "unknown"]),
        _VALUES,
        max_size=4,
    ),
    st.booleans(),
)
def test_whatever_is_sent_is_taken_or_refused_by_name(sent: dict[str, Any], beams: bool) -> None:
    refused = ""
    try:
        asked = parse(sent, USE_BEAM_SEARCH=str(beams).lower())
    except errors.InvalidArgumentError as error:
        refused = str(error)
    if refused:
        assert refused.startswith("extra input")
        assert any(key in refused for key in sent)
    else:
        assert 1 <= asked.num_samples <= 4
        assert 1 <= asked.max_steps <= 32
        assert 0 <= asked.request.cache_salt < 2**64
