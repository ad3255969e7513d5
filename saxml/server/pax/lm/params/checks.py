"""Which values a configuration's constants may have."""

from typing import Any

from saxml.common import errors
from saxml.engine.embedding import POOLINGS
from saxml.server import extra_inputs, stop_strings

_DTYPES = ("float32", "bfloat16")
_POSITIVE = frozenset(
    {
        "ICI_MESH_SHAPE",
        "BATCH_SIZE",
        "MAX_LIVE_BATCHES",
        "MAX_QUEUED_TOKENS",
        "INPUT_SEQ_LEN",
        "MAX_SEQ_LEN",
        "MAX_DECODE_STEPS",
        "NUM_SAMPLES",
        "MAX_NUM_SAMPLES",
        "BEAM_SIZE",
        "TOKENS_PER_BEAM",
        "STREAM_INTERVAL_STEPS",
        "PAGE_SIZE",
        "PREFILL_STRETCH",
        "TEXT_TO_EMBEDDING_SERVING_BATCH_SIZE",
        "TEXT_TO_EMBEDDING_MAX_LIVE_BATCHES",
    }
)
_NOT_NEGATIVE = frozenset(
    {"MIN_DECODE_STEPS", "TOP_K", "TEMPERATURE", "LENGTH_NORM_ALPHA", "KV_CACHE_GIB"}
    | {"SUFFIX_SEQ_LEN", "NUM_CACHE_SLOTS", "MAX_STOP_STRINGS", "MAX_LOGPROBS", "BATCH_WAIT_SECS"}
    | {"SOS_ID", "EOS_ID", "STOP_TOKEN_IDS"}
)

# Their default, None, does not show their type.
_STRING = frozenset({"VOCABULARY_PATH", "SPM_MODEL"})
_STRINGS = frozenset({"GRADIENT_WRT_INPUT_TENSOR_NAMES", "GRADIENT_WRT_MDL_VAR_TENSOR_NAMES"})
_WHOLE = frozenset(
    {"MAX_SEQ_LEN", "MAX_NUM_SAMPLES", "MAX_QUEUED_TOKENS", "TOKENS_PER_BEAM"}
    | {"TEXT_TO_EMBEDDING_SERVING_BATCH_SIZE", "TEXT_TO_EMBEDDING_MAX_LIVE_BATCHES"}
)
# May be null although their default is something else.
_NULLABLE = frozenset({"PREFILL_STRETCH", "SOS_ID", "EOS_ID", "PREPEND_SOS"})

# What an embedding is taken of: the forward pass of a language model, and the hidden states of its
# last layer after the final norm.
EMBEDDING_METHOD = "__call__"
EMBEDDING_OUTPUT = "last_hidden_state"
# Strings that have a few values.
_ONE_OF = {
    "FPROP_DTYPE": _DTYPES,
    "WEIGHT_DTYPE": ("int8",),
    "EMBEDDING_POOLING": POOLINGS,
    "TEXT_TO_EMBEDDING_MODEL_METHOD_NAME": (EMBEDDING_METHOD,),
    "TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME": (EMBEDDING_OUTPUT,),
}

# Constants of SAX that have one value here, and why.
FIXED = {
    "TOP_K_RECALL_TARGET": (1.0, "the best tokens are always the exact ones"),
    "USE_TOP_K_FOR_LOGPROBS": (
        False,
        "log-probabilities are always those of the whole distribution",
    ),
    "GLOBAL_NORMALIZE": (False, "top_p looks at the candidates that top_k keeps"),
    "FPROP_FOR_PREFIX": (True, "prompts are always computed many tokens at once"),
    "USE_MATMUL_BEAM_SHUFFLE": (False, "beams share their pages, nothing is shuffled"),
    "EMB_LOOKUP_STYLE": ("index", "embeddings are always looked up by index"),
    "NUM_EXTRA_IDS": (0, "ids beyond the vocabulary are not supported"),
    "PRECOMPUTE_KV_CACHE_PREFIX": (
        None,
        "prompts that begin alike share their keys and values by themselves (PREFIX_CACHE)",
    ),
    "VOCABULARY_CLASS": (
        None,
        "the kind of a vocabulary is seen from its files; set VOCABULARY_PATH alone",
    ),
}


def fits(key: str, value: object, now: object, default: object) -> bool:
    """Whether value may replace now: the same JSON type, any number for a float, anything for None;
    None where the template's default is None."""
    if value is None:
        return now is None or default is None or key in _NULLABLE
    if now is None:
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


def kind(now: object) -> str:
    """What `fits` wants, in words."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return names.get(type(now), "a value")


def out_of_range(key: str, value: Any) -> str | None:
    """What `value` would have to be instead; None if it is fine."""
    if key in FIXED and (value != FIXED[key][0] or type(value) is not type(FIXED[key][0])):
        return f"{FIXED[key][0]!r}: {FIXED[key][1]}"
    if value is None:
        return None
    if key in _STRING and not isinstance(value, str):
        return "a string"
    if key in _WHOLE and not (_number(value) and value == int(value)):
        return "a whole number"
    items = value if isinstance(value, list) else [value]
    if key == "MAX_PRIORITY" and not -100 <= value <= 100:
        return "from -100 to 100"
    if key in _POSITIVE and not all(_number(item) and item >= 1 for item in items):
        return "1 or more"
    if key in _NOT_NEGATIVE and not all(_number(item) and item >= 0 for item in items):
        return "0 or more"
    if key == "STOP_STRINGS" and (wrong := stop_strings.problem(value, MAX_STOP_STRINGS)):
        return f'a list like ["\\n\\n", "END"]; it {wrong}'
    if key in _ONE_OF and value not in _ONE_OF[key]:
        return f"one of {', '.join(_ONE_OF[key])}"
    if key in _STRINGS and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        return "a list of names"
    if key == "EXTRA_INPUTS_DTYPES" and not set(value.values()) <= set(extra_inputs.DTYPES):
        return f"extra inputs and their dtypes, each one of {', '.join(extra_inputs.DTYPES)}"
    return None


# Of a configuration.
MAX_STOP_STRINGS = 16


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_together(params: Any) -> None:
    """Raises InvalidArgumentError for constants that contradict one another."""
    p = params

    def refuse(wrong: bool, text: str) -> None:
        if wrong:
            raise errors.InvalidArgumentError(f"{type(p).__name__}: {text}")

    for key in FIXED:
        problem = out_of_range(key, getattr(p, key))
        refuse(problem is not None, f"{key} must be {problem}")
    refuse(p.SCORE_ONLY and p.GENERATE_ONLY, "SCORE_ONLY and GENERATE_ONLY exclude each other")
    refuse(
        p.MAX_SEQ_LEN is not None and p.MAX_SEQ_LEN <= p.INPUT_SEQ_LEN,
        f"MAX_SEQ_LEN {p.MAX_SEQ_LEN} leaves no room for an answer to {p.INPUT_SEQ_LEN} tokens"
        " (INPUT_SEQ_LEN)",
    )
    refuse(
        p.MAX_NUM_SAMPLES is not None and p.MAX_NUM_SAMPLES < p.NUM_SAMPLES,
        f"MAX_NUM_SAMPLES {p.MAX_NUM_SAMPLES} is less than NUM_SAMPLES {p.NUM_SAMPLES}",
    )
    refuse(
        p.NUM_CACHE_SLOTS > 0 and (p.USE_BEAM_SEARCH or p.NUM_SAMPLES != 1),
        "NUM_CACHE_SLOTS is for one sample a request, without USE_BEAM_SEARCH; BATCH_SIZE says"
        " how many requests decode together",
    )
    refuse(
        p.GENERATION_USE_GEOMEAN_PROB_SCORE and p.USE_BEAM_SEARCH,
        "GENERATION_USE_GEOMEAN_PROB_SCORE is for samples; beams are scored by LENGTH_NORM_ALPHA",
    )
    refuse(
        p.SPM_MODEL is not None and p.VOCABULARY_PATH is not None,
        "SPM_MODEL and VOCABULARY_PATH exclude each other",
    )
    refuse(
        p.APPLY_CHAT_TEMPLATE and p.TOKENIZED_INPUT,
        "APPLY_CHAT_TEMPLATE is for text, TOKENIZED_INPUT for token ids",
    )
    refuse(
        (p.TEXT_TO_EMBEDDING_MODEL_METHOD_NAME is None)
        != (p.TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME is None),
        "TEXT_TO_EMBEDDING_MODEL_METHOD_NAME and TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME are set"
        " together, or neither",
    )
    unread = sorted(set(p.SCORE_EXTRA_INPUTS) - extra_inputs.REQUEST_KEYS)
    refuse(
        bool(unread),
        f"SCORE_EXTRA_INPUTS has {unread}; a score follows from the model and the texts alone, and"
        f" reads {', '.join(sorted(extra_inputs.REQUEST_KEYS))} at most",
    )
    unknown = sorted(set(p.EXTRA_INPUTS_DTYPES) - set(p.EXTRA_INPUTS) - extra_inputs.GENERATE_KEYS)
    refuse(bool(unknown), f"EXTRA_INPUTS_DTYPES has {unknown}, which EXTRA_INPUTS has not")
