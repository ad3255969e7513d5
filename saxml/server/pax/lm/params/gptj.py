"""GPT-J 6B (EleutherAI, 2021), as SAX publishes it."""

from typing import Any

from saxml.checkpoint.record import ModelRecord
from saxml.models.config import ModelConfig
from saxml.server import registry
from saxml.server.pax.lm.params import template


@registry.register
class GPTJ(template.CommonServingTemplate):
    """One request at a time, four beams, text in and out."""

    NUM_LAYERS: Any = 28
    MODEL_DIMS: Any = 4096
    NUM_HEADS: Any = 16
    DIMS_PER_HEAD: Any = 256
    HIDDEN_DIMS: Any = 16384
    ROTARY_DIMS: Any = 64
    MAX_POSITIONS: Any = 2048
    VOCAB_SIZE: Any = 50401

    INPUT_SEQ_LEN: Any = 1919
    MIN_DECODE_STEPS: Any = 30
    MAX_DECODE_STEPS: Any = 128
    BATCH_SIZE: Any = 1
    BATCH_WAIT_SECS: Any = 0.2
    MAX_LIVE_BATCHES: Any = 2
    NUM_SAMPLES: Any = 1
    USE_BEAM_SEARCH: Any = True
    BEAM_SIZE: Any = 4
    TOKENS_PER_BEAM: Any = 4
    LENGTH_NORM_ALPHA: Any = 0.5
    SOS_ID: Any = 50256
    EOS_ID: Any = 50256
    EOS_PADDING_AND_NO_SOS: Any = True
    # Declared for the clients that send them; beam search does not sample.
    EXTRA_INPUTS: Any = {
        "temperature": 0.5,
        "per_example_max_decode_steps": 128,
        "per_example_top_k": 200,
        "per_example_top_p": 0.95,
        "top_k": 200,
        "top_p": 0.95,
    }

    def model_config(self, record: ModelRecord | None) -> ModelConfig:
        """GPT-J with this class's sizes; the checkpoint's record is not needed."""
        return ModelConfig(
            family="gptj",
            num_layers=self.NUM_LAYERS,
            model_dim=self.MODEL_DIMS,
            num_heads=self.NUM_HEADS,
            num_kv_heads=self.NUM_HEADS,
            head_dim=self.DIMS_PER_HEAD,
            hidden_dim=self.HIDDEN_DIMS,
            vocab_size=self.VOCAB_SIZE,
            rotary_dim=self.ROTARY_DIMS,
            rotary_base=10000.0,
            rotary_style="pairs",
            norm_eps=1e-5,
            tied_embeddings=False,
            combined_qkv=True,
            max_positions=self.MAX_POSITIONS,
        )


@registry.register
class GPTJ4BF16BS32(GPTJ):
    """On four chips in bfloat16, 32 requests together."""

    ICI_MESH_SHAPE: Any = [1, 1, 4]
    FPROP_DTYPE: Any = "bfloat16"
    BATCH_SIZE: Any = 32
    BUCKET_KEYS: Any = [512, 1024, 1919]
    MAX_DECODE_STEPS: Any = [32, 64, 128]
    BATCH_WAIT_SECS: Any = 4.0
    MAX_LIVE_BATCHES: Any = 6


@registry.register
class GPTJ4TokenizedBF16BS32(GPTJ4BF16BS32):
    """The same with comma-separated token ids in and out."""

    TOKENIZED_INPUT: Any = True
    TOKENIZED_OUTPUT: Any = True
