"""Constants that every published configuration has, with their defaults; a publish may override any
by KEY=JSON."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from saxml.checkpoint.record import ModelRecord
from saxml.common import errors
from saxml.models.config import ModelConfig
from saxml.server import extra_inputs

# Overrides that speak to the admin's assigner, not to the configuration: memory needs and
# placement.
_PLACEMENT_KEYS = ("ram", "constraints")

_DTYPES = ("float32", "bfloat16")
_POSITIVE = frozenset(
    {
        "ICI_MESH_SHAPE",
        "BATCH_SIZE",
        "MAX_LIVE_BATCHES",
        "INPUT_SEQ_LEN",
        "MAX_DECODE_STEPS",
        "NUM_SAMPLES",
        "BEAM_SIZE",
        "TOKENS_PER_BEAM",
        "STREAM_INTERVAL_STEPS",
        "PAGE_SIZE",
        "PREFILL_STRETCH",
    }
)
_NOT_NEGATIVE = frozenset(
    {"MIN_DECODE_STEPS", "TOP_K", "TEMPERATURE", "LENGTH_NORM_ALPHA", "KV_CACHE_GIB"}
    | {"SOS_ID", "EOS_ID", "STOP_TOKEN_IDS"}
)


class CommonServingTemplate:
    """A published configuration: constants in capitals, and the model they are for.

    Continuous batching makes some constants of SAX moot: a request never waits for a batch to fill
    (BATCH_WAIT_SECS), and sequences are not padded to a bucket (BUCKET_KEYS). They are accepted so
    that published names and overrides keep working.
    """

    # Devices (replica, data_mdl2, mdl).
    ICI_MESH_SHAPE: Any = [1, 1, 1]
    # Requests decoded together, and how many such batches may be in flight before others are
    # refused.
    BATCH_SIZE: Any = 1
    MAX_LIVE_BATCHES: Any = 4
    BATCH_WAIT_SECS: Any = None
    BUCKET_KEYS: Any = None
    # Lengths, in tokens. MAX_DECODE_STEPS may be a list; the largest counts.
    INPUT_SEQ_LEN: Any = 256
    MAX_DECODE_STEPS: Any = 32
    MIN_DECODE_STEPS: Any = 0
    # Choice of tokens.
    NUM_SAMPLES: Any = 2
    TOP_K: Any = 40
    TEMPERATURE: Any = 0.0
    SORT_SAMPLES: Any = True
    USE_BEAM_SEARCH: Any = False
    BEAM_SIZE: Any = 4
    TOKENS_PER_BEAM: Any = None
    LENGTH_NORM_ALPHA: Any = 0.8
    BEAM_SEARCH_EARLY_EXIT: Any = False
    # Goes on to the last step even when no step left can change the result.
    BEAM_SEARCH_FIXED_STEPS: Any = False
    # Vocabulary and tokenisation.
    SOS_ID: Any = 0
    EOS_ID: Any = 1
    STOP_TOKEN_IDS: Any = None
    # An answer ends before the first of these, a list of strings; for answers in text.
    STOP_STRINGS: Any = None
    VOCABULARY_PATH: Any = None
    TOKENIZED_INPUT: Any = False
    TOKENIZED_OUTPUT: Any = False
    PREPEND_SOS: Any = True
    EOS_PADDING_AND_NO_SOS: Any = False
    APPLY_CHAT_TEMPLATE: Any = False
    # A prompt longer than INPUT_SEQ_LEN is refused, or cut: its first tokens are kept with
    # SLICE_LEFT, else its last.
    FAIL_ON_INPUT_TRUNCATION: Any = True
    SLICE_LEFT: Any = True
    INCLUDE_PREFIX_IN_RESULT: Any = False
    # Methods.
    SCORE_ONLY: Any = False
    GENERATE_ONLY: Any = False
    ENABLE_GENERATE_STREAM: Any = False
    STREAM_INTERVAL_STEPS: Any = 1
    EXTRA_INPUTS: Any = {"temperature": 0.1}
    SCORE_EXTRA_INPUTS: Any = {}
    SCORING_INCLUDE_EOS_SCORE: Any = False
    SCORING_USE_GEOMEAN_PROB_SCORE: Any = False
    GENERATION_USE_GEOMEAN_PROB_SCORE: Any = False
    # Numbers and memory. PAGE_SIZE tokens a page of keys and values; KV_CACHE_GIB bounds all of
    # them (None: a share of the free memory). PREFIX_CACHE keeps full pages for later prompts that
    # begin alike, until others need the room.
    FPROP_DTYPE: Any = "float32"
    PAGE_SIZE: Any = 16
    KV_CACHE_GIB: Any = None
    PREFIX_CACHE: Any = True
    # Steps that take prompts along last at most so many times as long as those that only decode
    # (None: prompts take all that fits into a step, and streams wait for them).
    PREFILL_STRETCH: Any = 2.0
    # Random weights instead of a checkpoint (checkpoint path None), for tests.
    RANDOM_WEIGHTS: Any = False

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        """Applies overrides, constant -> JSON. Raises InvalidArgumentError for an unknown key, bad
        JSON or a wrong type."""
        for key, text in (overrides or {}).items():
            if key.rstrip("0123456789") in _PLACEMENT_KEYS:
                continue
            self._override(key, text)

    def _override(self, key: str, text: str) -> None:
        if not key.isupper() or key not in self.constants():
            raise errors.InvalidArgumentError(
                f"override {key!r}: {type(self).__name__} has no such constant"
            )
        try:
            value = json.loads(text)
        except ValueError:
            raise errors.InvalidArgumentError(
                f"override {key}={text!r} is not JSON; write strings with quotes"
            ) from None
        now = getattr(self, key)
        if not _fits(value, now):
            raise errors.InvalidArgumentError(
                f"override {key}={text}: must be {_kind(now)} like {json.dumps(now)}"
            )
        if problem := _out_of_range(key, value):
            raise errors.InvalidArgumentError(f"override {key}={text}: must be {problem}")
        setattr(self, key, value)

    @classmethod
    def constants(cls) -> dict[str, Any]:
        """Every constant and its value in this class."""
        return {k: v for k, v in inspect.getmembers(cls) if k.isupper() and not k.startswith("_")}

    def model_config(self, record: ModelRecord | None) -> ModelConfig:
        """The model to build; record is what lies beside the weights, if anything does."""
        raise errors.UnimplementedError(f"{type(self).__name__} does not say what its model is")

    @property
    def max_decode_steps(self) -> int:
        """The longest output, in tokens."""
        steps = self.MAX_DECODE_STEPS
        return int(max(steps) if isinstance(steps, list) else steps)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a sequence."""
        return tuple(self.STOP_TOKEN_IDS or [self.EOS_ID])


def _fits(value: object, now: object) -> bool:
    """Whether value may replace now: the same JSON type, any number for a float, anything for None,
    None for anything."""
    if value is None or now is None:
        return True
    if isinstance(now, bool) or isinstance(value, bool):
        return isinstance(now, bool) and isinstance(value, bool)
    if isinstance(now, float):
        return isinstance(value, int | float)
    if isinstance(now, int | list) and isinstance(value, int | list):
        # MAX_DECODE_STEPS and BATCH_SIZE are a number or a list of numbers.
        items = value if isinstance(value, list) else [value]
        return all(isinstance(i, int) and not isinstance(i, bool) for i in items) and bool(items)
    return isinstance(value, type(now))


def _out_of_range(key: str, value: Any) -> str | None:
    """What `value` would have to be instead; None if it is fine."""
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    if key in _POSITIVE and not all(item >= 1 for item in items):
        return "1 or more"
    if key in _NOT_NEGATIVE and not all(item >= 0 for item in items):
        return "0 or more"
    if key == "STOP_STRINGS" and (problem := extra_inputs.problem_of_stops(value)):
        return f'a list like ["\\n\\n", "END"]; it {problem}'
    if key == "FPROP_DTYPE" and value not in _DTYPES:
        return f"one of {', '.join(_DTYPES)}"
    return None


def _kind(now: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return names.get(type(now), "a value")
