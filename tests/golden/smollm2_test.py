"""SmolLM2-135M-Instruct, a real model: its GGUF file is converted, restored and asked."""

import os
import pathlib

import numpy as np
import pytest

from saxml.checkpoint.record import ModelRecord, read_record
from saxml.tokenizer import chat
from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.load import load_tokenizer
from tests.golden.forward import prompt_logits
from tools.bench import perplexity
from tools.convert.gguf import convert_gguf


def gguf_file() -> str | None:
    """Of SMOLLM2_GGUF, else among the test's runfiles."""
    beside = pathlib.Path("..").glob("*smollm2*/unpacked/**/*.gguf")
    return os.environ.get("SMOLLM2_GGUF") or next(map(str, beside), None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = gguf_file()
    if file is None:
        pytest.skip("the model is not here: set SMOLLM2_GGUF, or run this test with Bazel")
    return convert_gguf(file, str(tmp_path_factory.mktemp("smollm2")))


@pytest.fixture
def record(checkpoint: str) -> ModelRecord:
    return read_record(checkpoint)[1]


@pytest.fixture
def tokenizer(checkpoint: str) -> Tokenizer:
    return load_tokenizer(checkpoint)


def test_record_says_what_the_file_says(record: ModelRecord) -> None:
    c = record.config
    assert (c.num_layers, c.model_dim, c.num_heads, c.num_kv_heads) == (30, 576, 9, 3)
    assert (c.head_dim, c.hidden_dim, c.vocab_size, c.max_positions) == (64, 1536, 49152, 8192)
    assert (c.rotary_base, c.rotary_style, c.tied_embeddings) == (100000.0, "pairs", True)
    assert (record.sos_id, record.eos_id, record.stop_token_ids) == (1, 2, (2, 0))
    assert not record.prepend_sos
    assert record.chat_format == "chatml"
    assert record.chat_system is not None
    assert record.chat_system.startswith("You are a helpful AI assistant named SmolLM")


def test_tokenizer(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 49152
    assert tokenizer.encode("<|im_start|>user\n") == [1, 4093, 198]
    text = "In 2024, Zoë paid 1234.50 € for 3 naïve 🙂 emojis.\n\n\tOK?"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(i) for i in ids).decode() == text
    assert len(tokenizer.encode("1234")) == 4


def test_it_knows_the_capital_of_france(
    checkpoint: str, record: ModelRecord, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(chat.render(record, "What is the capital of France?"))
    start = len(ids)
    compute = prompt_logits(record.config, checkpoint, 64)
    while len(ids) < 64 and (len(ids) == start or ids[-1] != record.eos_id):
        ids.append(int(compute(np.array(ids, np.int32))[-1].argmax()))
    assert tokenizer.decode(ids[start:]) == "The capital of France is Paris.<|im_end|>"


def test_int8_predicts_a_text_within_a_percent_of_bfloat16(checkpoint: str) -> None:
    ids = perplexity.windows(checkpoint, perplexity.default_text(), 1024, 256)
    exact, small = (perplexity.losses(checkpoint, ids, kind) for kind in ("bfloat16", "int8"))
    found = perplexity.compare(small, exact)
    assert found.perplexity < 40
    assert abs(found.ratio - 1) < 0.01
