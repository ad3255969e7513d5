"""Sampling parameters: what is out of range is refused with its name, its value and the range."""

import re
from typing import Any

import pytest

from saxml.common import errors
from saxml.engine.sampling_params import MAX_LOGIT_BIAS, SamplingParams


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -0.5}, "temperature is -0.5; must be a number from 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": (1.0, -1.0)}, "temperature of sample 1 is -1.0"),
        ({"temperature": ()}, "temperature is (); one a sample"),
        ({"temperature": True}, "temperature is True"),
        ({"top_k": 1.5}, "top_k is 1.5; must be a whole number from 0"),
        ({"top_p": 1.1}, "top_p is 1.1; must be a number from 0 to 1"),
        ({"min_p": -0.1}, "min_p is -0.1; must be a number from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; must be a number from 0.01"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5; must be a number from -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3; must be a number from -2 to 2"),
        ({"logit_bias": {-1: 1.0}}, "a token of logit_bias is -1"),
        ({"logit_bias": {7: float("inf")}}, "logit_bias of token 7 is inf; must be a number from"),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, f"at most {MAX_LOGIT_BIAS}"),
        ({"seed": 2**31}, "seed is 2147483648; must be a whole number from 0 to 2147483647"),
        ({"min_steps": -1}, "min_steps is -1"),
        ({"logprobs": -1}, "logprobs is -1"),
    ],
)
def test_value_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=re.escape(message)):
        SamplingParams(**given)


def test_penalties_are_off_by_default_and_each_is_noticed() -> None:
    assert not SamplingParams(temperature=(0.0, 1), top_k=40, min_p=1.0).has_penalties
    assert SamplingParams(repetition_penalty=1.1).has_penalties
    assert SamplingParams(presence_penalty=-0.1).has_penalties
    assert SamplingParams(frequency_penalty=2).has_penalties
    assert SamplingParams(logit_bias={3: -100.0}).has_penalties
