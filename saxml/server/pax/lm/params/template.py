"""Constants that every published configuration has, with their defaults; a publish may override any
by KEY=JSON."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from saxml.checkpoint.record import ModelRecord
from saxml.common import errors
from saxml.models.config import ModelConfig
from saxml.server.pax.lm.params import checks

# Overrides that speak to the admin's assigner, not to the configuration: memory needs and
# placement.
_PLACEMENT_KEYS = ("ram", "constraints")


class CommonServingTemplate:
    """A published configuration: constants in capitals, and the model they are for.

    Continuous batching makes some constants of SAX moot: a request never waits for a batch to fill
    (BATCH_WAIT_SECS), and sequences are not padded to a bucket (BUCKET_KEYS). They are accepted so
    that published names and overrides keep working.
    """

    # Devices (replica, data_mdl2, mdl).
    ICI_MESH_SHAPE: Any = [1, 1, 1]
    # Requests decoded together, and how many such batches may be in flight before others are
    # refused. NUM_CACHE_SLOTS, unless 0, says instead how many decode together. MAX_QUEUED_TOKENS
    # is how many prompt tokens may wait before others are refused (None: as many as the engine
    # takes in some time, see loading.max_queued_tokens).
    BATCH_SIZE: Any = 1
    MAX_LIVE_BATCHES: Any = 4
    NUM_CACHE_SLOTS: Any = 0
    MAX_QUEUED_TOKENS: Any = None
    BATCH_WAIT_SECS: Any = None
    BUCKET_KEYS: Any = None
    # Lengths, in tokens. MAX_DECODE_STEPS may be a list; the largest counts. MIN_DECODE_STEPS is
    # for beams; a request may ask for more (and for samples). MAX_SEQ_LEN bounds prompt and answer
    # together (None: nothing beyond the others does), SUFFIX_SEQ_LEN a suffix that is scored (0:
    # prefix and suffix together are bounded as prompt and answer are).
    INPUT_SEQ_LEN: Any = 256
    SUFFIX_SEQ_LEN: Any = 0
    MAX_DECODE_STEPS: Any = 32
    MIN_DECODE_STEPS: Any = 0
    MAX_SEQ_LEN: Any = None
    # Choice of tokens. A request may ask for up to MAX_NUM_SAMPLES (None: NUM_SAMPLES) samples.
    NUM_SAMPLES: Any = 2
    MAX_NUM_SAMPLES: Any = None
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
    # An answer ends before the first of these, a list of strings; for answers in text. A request
    # may bring up to MAX_STOP_STRINGS more.
    STOP_STRINGS: Any = None
    MAX_STOP_STRINGS: Any = 16
    # The highest priority, of -100 to 100, that a request may ask for.
    MAX_PRIORITY: Any = 100
    # Most likely tokens of each place whose log-probabilities a request may ask for.
    MAX_LOGPROBS: Any = 20
    # What to tokenise with, if not with what lies beside the weights; SPM_MODEL is another name.
    VOCABULARY_PATH: Any = None
    SPM_MODEL: Any = None
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
    ENABLE_GENERATE: Any = True
    ENABLE_GENERATE_STREAM: Any = False
    STREAM_INTERVAL_STEPS: Any = 1
    EXTRA_INPUTS: Any = {"temperature": 0.1}
    EXTRA_INPUTS_DTYPES: Any = {}
    SCORE_EXTRA_INPUTS: Any = {}
    SCORING_INCLUDE_EOS_SCORE: Any = False
    SCORING_USE_GEOMEAN_PROB_SCORE: Any = False
    GENERATION_USE_GEOMEAN_PROB_SCORE: Any = False
    # Embeddings, offered where the first two name the model's forward pass and what is taken of it:
    # checks.EMBEDDING_METHOD and checks.EMBEDDING_OUTPUT. Admission as for other methods unless the
    # next two say otherwise. EMBEDDING_POOLING takes the last token's hidden state, or the mean of
    # all; EMBEDDING_NORMALIZE scales the result to length 1.
    TEXT_TO_EMBEDDING_MODEL_METHOD_NAME: Any = None
    TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME: Any = None
    TEXT_TO_EMBEDDING_SERVING_BATCH_SIZE: Any = None
    TEXT_TO_EMBEDDING_MAX_LIVE_BATCHES: Any = None
    EMBEDDING_POOLING: Any = "last"
    EMBEDDING_NORMALIZE: Any = False
    # Gradients of a score, offered where one of these names what they are taken with respect to:
    # "embeddings", the embedded inputs, and weights by their paths, "params/lm/final_ln/scale".
    GRADIENT_WRT_INPUT_TENSOR_NAMES: Any = None
    GRADIENT_WRT_MDL_VAR_TENSOR_NAMES: Any = None
    # Numbers and memory. WEIGHT_DTYPE "int8" rounds matrices at load (None: int8 where the
    # checkpoint has int8, else FPROP_DTYPE). PAGE_SIZE tokens a page of keys and values;
    # KV_CACHE_GIB bounds all of them (None: a share of the free memory). PREFIX_CACHE keeps full
    # pages for later prompts that begin alike, until others need the room.
    FPROP_DTYPE: Any = "float32"
    WEIGHT_DTYPE: Any = None
    PAGE_SIZE: Any = 16
    KV_CACHE_GIB: Any = None
    PREFIX_CACHE: Any = True
    # Steps that take prompts along last at most so many times as long as those that only decode
    # (None: prompts take all that fits into a step, and streams wait for them).
    PREFILL_STRETCH: Any = 2.0
    # Random weights instead of a checkpoint (checkpoint path None), for tests.
    RANDOM_WEIGHTS: Any = False
    # SAX's, with one value each here; checks.FIXED says why.
    TOP_K_RECALL_TARGET: Any = 1.0
    USE_TOP_K_FOR_LOGPROBS: Any = False
    GLOBAL_NORMALIZE: Any = False
    FPROP_FOR_PREFIX: Any = True
    USE_MATMUL_BEAM_SHUFFLE: Any = False
    EMB_LOOKUP_STYLE: Any = "index"
    NUM_EXTRA_IDS: Any = 0
    PRECOMPUTE_KV_CACHE_PREFIX: Any = None
    VOCABULARY_CLASS: Any = None

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        """Applies overrides, constant -> JSON. Raises InvalidArgumentError for an unknown key, bad
        JSON, a wrong type, a value out of range, or constants that contradict one another."""
        for key, text in (overrides or {}).items():
            if key.rstrip("0123456789") in _PLACEMENT_KEYS:
                continue
            self._override(key, text)
        checks.check_together(self)

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
        default = getattr(CommonServingTemplate, key, None)
        if not checks.fits(key, value, now, default):
            raise errors.InvalidArgumentError(
                f"override {key}={text}: must be {checks.kind(now)} like {json.dumps(now)}"
            )
        if problem := checks.out_of_range(key, value):
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
    def max_seq_len(self) -> int:
        """The longest prompt and answer together, in tokens."""
        longest = self.INPUT_SEQ_LEN + self.max_decode_steps
        return int(longest if self.MAX_SEQ_LEN is None else min(longest, self.MAX_SEQ_LEN))

    @property
    def max_scored_len(self) -> int:
        """The longest prefix and suffix together, in tokens."""
        if not self.SUFFIX_SEQ_LEN:
            return self.max_seq_len
        return int(self.INPUT_SEQ_LEN + self.SUFFIX_SEQ_LEN)

    @property
    def longest_sequence(self) -> int:
        """What the engine must hold of one request, in tokens."""
        return max(self.max_seq_len, self.max_scored_len)

    @property
    def offers_embeddings(self) -> bool:
        """Whether lm.embed is a method of this model."""
        return self.TEXT_TO_EMBEDDING_MODEL_METHOD_NAME is not None

    @property
    def max_live_embeddings(self) -> int:
        """How many requests of lm.embed may be served at once."""
        batch = self.TEXT_TO_EMBEDDING_SERVING_BATCH_SIZE or self.batch_size
        return int(batch * (self.TEXT_TO_EMBEDDING_MAX_LIVE_BATCHES or self.MAX_LIVE_BATCHES))

    @property
    def offers_gradients(self) -> bool:
        """Whether lm.gradient is a method of this model."""
        return bool(self.GRADIENT_WRT_INPUT_TENSOR_NAMES or self.GRADIENT_WRT_MDL_VAR_TENSOR_NAMES)

    @property
    def max_num_samples(self) -> int:
        """The most samples that a request may ask for."""
        return int(self.MAX_NUM_SAMPLES or self.NUM_SAMPLES)

    @property
    def batch_size(self) -> int:
        """The largest batch."""
        return int(max(self.BATCH_SIZE) if isinstance(self.BATCH_SIZE, list) else self.BATCH_SIZE)

    @property
    def max_live_requests(self) -> int:
        """How many requests of one method may be served at once."""
        return self.batch_size * int(self.MAX_LIVE_BATCHES)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a sequence."""
        return tuple(self.STOP_TOKEN_IDS or [self.EOS_ID])
