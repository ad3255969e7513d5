"""The extra input logit_bias as a request spells it: what is added to the logits of tokens."""

import json
import math
from typing import Any

from saxml.common import errors

_HOW = 'write 50256=-100 11=2.5, or JSON like {"50256": -100, "11": 2.5}'


def parse(value: Any, vocab_size: int) -> dict[int, float]:
    """Token -> bias, out of "TOKEN=BIAS TOKEN=BIAS" or a JSON object.

    Raises InvalidArgumentError that names the pair which is wrong: a token outside the vocabulary,
    one that is given twice, a bias that is no number. Its range is SamplingParams' affair.
    """
    if value is None or value == "":
        return {}
    if not isinstance(value, str):
        raise errors.InvalidArgumentError(f"extra input logit_bias is {value!r}; {_HOW}")
    pairs = _json_pairs(value) if value.lstrip().startswith("{") else _plain_pairs(value)
    biases: dict[int, float] = {}
    for token, bias in pairs:
        if not (token.isascii() and token.isdecimal() and len(token) <= 10):
            raise errors.InvalidArgumentError(
                f"extra input logit_bias: {token[:40]!r} is not a token id; {_HOW}"
            )
        if int(token) >= vocab_size:
            raise errors.InvalidArgumentError(
                f"extra input logit_bias: token {token} is outside the vocabulary of {vocab_size}"
            )
        if int(token) in biases:
            raise errors.InvalidArgumentError(
                f"extra input logit_bias: token {token} is given twice"
            )
        biases[int(token)] = _bias(token, bias)
    return biases


def _plain_pairs(text: str) -> list[tuple[str, Any]]:
    return [(token, bias) for token, _, bias in (pair.partition("=") for pair in text.split())]


def _json_pairs(text: str) -> list[tuple[str, Any]]:
    try:
        # As a list of pairs: a key that is given twice must not go unnoticed.
        found = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError):
        raise errors.InvalidArgumentError(
            f"extra input logit_bias is {text[:80]!r}, which is not JSON; {_HOW}"
        ) from None
    return list(found)


def _bias(token: str, text: Any) -> float:
    written = isinstance(text, str | int | float) and not isinstance(text, bool)
    try:
        bias = float(text) if written else math.nan
    except (ValueError, OverflowError):
        bias = math.nan
    if not math.isfinite(bias):
        raise errors.InvalidArgumentError(
            f"extra input logit_bias: the bias of token {token} is {str(text)[:40]!r}, which is not"
            f" a number; {_HOW}"
        )
    return bias
