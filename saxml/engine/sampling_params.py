"""What one request asks of the choice of its tokens; the same for all its samples, but for their
temperatures.

In this order, on the float32 logits of a position:

1. a stop token, while fewer than min_steps tokens were generated, is barred;
2. logit_bias is added;
3. repetition_penalty (Keskar et al. 2019, in the form of Hugging Face transformers): the logit of
   each token of the prompt or of what was generated is divided by it where positive and multiplied
   where negative;
4. frequency_penalty times the number of times that a token was generated, and presence_penalty
   where it was generated at all, are taken from its logit (OpenAI's definition);
5. top_k, top_p and min_p, in this order, restrict the candidates. They look at the distribution at
   temperature 1: top_p keeps the smallest number of best tokens whose mass exceeds it; min_p keeps
   those with at least min_p times the probability of the best (Nguyen et al. 2024);
6. a draw from softmax(logits / temperature) over the candidates; temperature 0 takes the best one.

Equal logits: the lowest token id. What a token is reported with, its log-probability, is of the
model's own distribution, before all of this.
"""

import dataclasses
import math
from collections.abc import Mapping

from saxml.common import errors

MAX_LOGIT_BIAS = 1024  # tokens that one request may have a bias for
_SEED_END = 2**31


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """See the module. Raises InvalidArgumentError for a value out of range, with the range."""

    temperature: float | tuple[float, ...] = 0.0  # one for all samples, or one a sample
    top_k: int = 0  # 0 keeps everything
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    # token -> added to its logit
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    seed: int = 0
    min_steps: int = 0  # stop tokens are barred before so many tokens
    logprobs: int = 0  # best tokens reported with each chosen one

    def __post_init__(self) -> None:
        if isinstance(self.temperature, tuple):
            if not self.temperature:
                raise errors.InvalidArgumentError("temperature is (); one a sample is needed")
            for sample, temperature in enumerate(self.temperature):
                _check(f"temperature of sample {sample}", temperature, 0)
        else:
            _check("temperature", self.temperature, 0)
        _check("top_k", self.top_k, 0, whole=True)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise errors.InvalidArgumentError(
                f"logit_bias has {len(self.logit_bias)} tokens; at most {MAX_LOGIT_BIAS}"
            )
        for token, bias in self.logit_bias.items():
            _check("a token of logit_bias", token, 0, whole=True)
            _check(f"logit_bias of token {token}", bias, -100, 100)
        _check("seed", self.seed, 0, _SEED_END - 1, whole=True)
        _check("min_steps", self.min_steps, 0, whole=True)
        _check("logprobs", self.logprobs, 0, whole=True)

    @property
    def has_penalties(self) -> bool:
        """Whether logits of single tokens are changed by what was read or written, or by a bias."""
        return bool(
            self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
        )


def _check(
    name: str, value: float, low: float, high: float = 2.0**31 - 1, *, whole: bool = False
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        good = False
    else:
        good = not whole or value == int(value)
    if not good:
        kind = "a whole number" if whole else "a number"
        raise errors.InvalidArgumentError(
            f"{name} is {value!r}; must be {kind} from {low:g} to {high:.10g}"
        )
