"""Any converted checkpoint, without a class of its own."""

import dataclasses
from typing import Any

from saxml.checkpoint.record import ModelRecord
from saxml.common import errors
from saxml.models.config import ModelConfig
from saxml.server import registry
from saxml.server.pax.lm.params import template


@registry.register
class AutoLM(template.CommonServingTemplate):
    """Family, sizes, vocabulary, special ids and rotary layout come from what the converter wrote
    beside the weights.

    SOS_ID, EOS_ID and STOP_TOKEN_IDS stay None unless overridden; None means the checkpoint's own.
    """

    BATCH_SIZE: Any = 16
    INPUT_SEQ_LEN: Any = 1024
    MAX_DECODE_STEPS: Any = 256
    NUM_SAMPLES: Any = 1
    TOP_K: Any = 40
    SOS_ID: Any = None
    EOS_ID: Any = None
    PREPEND_SOS: Any = None
    ENABLE_GENERATE_STREAM: Any = True
    TEXT_TO_EMBEDDING_MODEL_METHOD_NAME: Any = "__call__"
    TEXT_TO_EMBEDDING_OUTPUT_EMBEDDING_NAME: Any = "last_hidden_state"
    EXTRA_INPUTS: Any = {
        "temperature": 0.0,
        "per_example_max_decode_steps": None,  # MAX_DECODE_STEPS
        "per_example_top_k": 0,
        "per_example_top_p": 1.0,
    }

    def model_config(self, record: ModelRecord | None) -> ModelConfig:
        """The recorded model; positions beyond what it was trained on are refused."""
        if record is None:
            raise errors.FailedPreconditionError(
                "AutoLM needs sax_model.json beside the weights; convert the checkpoint with"
                " //tools/convert:gptj, :llama or :gguf"
            )
        if self.longest_sequence > record.config.max_positions:
            rest = max(self.max_decode_steps, self.SUFFIX_SEQ_LEN)
            self.INPUT_SEQ_LEN = max(1, record.config.max_positions - rest)
        if self.SOS_ID is None:
            self.SOS_ID = record.sos_id
        if self.EOS_ID is None:
            self.EOS_ID = record.eos_id
        if self.STOP_TOKEN_IDS is None:
            self.STOP_TOKEN_IDS = list(record.stop_token_ids)
        return dataclasses.replace(record.config)
