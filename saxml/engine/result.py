"""Where things stand in a step's result, f32[N, width]: one row an entry.

    token, logp, target, mass | best logp, best id, best logp, best id, ... | logp of stop tokens

All log-probabilities are of the model's own distribution, softmax of its float32 logits, whatever
the choice of tokens made of them; none is below LEAST_LOGP. Token ids are exact in float32 (they
are far below 2**24).
"""

# Stands for less: -inf and NaN cannot be written in JSON.
LEAST_LOGP = -9999.0

TOKEN = 0  # the chosen token
LOGP = 1  # its log-probability
TARGET = 2  # log-probability of the entry's target
MASS = 3  # log of the softmax's denominator; not finite: these logits are no distribution
_BEST = 4


def best_logp(count: int) -> slice:
    """Columns of the `count` best log-probabilities, descending."""
    return slice(_BEST, _BEST + 2 * count, 2)


def best_id(count: int) -> slice:
    """Columns of their tokens; of equal logits the lowest id stands first."""
    return slice(_BEST + 1, _BEST + 1 + 2 * count, 2)


def stop_logp(count: int) -> slice:
    """Columns of the log-probabilities of the engine's `count` stop tokens."""
    return slice(-count, None) if count else slice(0)
