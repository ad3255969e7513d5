"""sax_model.json: what is written is read, anything odd is named."""

import json
import pathlib
from typing import Any

import pytest

from saxml.checkpoint.record import ModelRecord, TokenizerRecord, read_record
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models.config import ModelConfig

CONFIG = ModelConfig(
    family="llama",
    num_layers=2,
    model_dim=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    hidden_dim=16,
    vocab_size=32,
    rotary_dim=4,
    rotary_base=10000.0,
    rotary_style="halves",
    norm_eps=1e-5,
    tied_embeddings=True,
    combined_qkv=False,
    max_positions=64,
)
RECORD = ModelRecord(
    config=CONFIG,
    sos_id=1,
    eos_id=2,
    stop_token_ids=(2, 0),
    prepend_sos=True,
    tokenizer=TokenizerRecord(kind="hf_json", files=("tokenizer.json",)),
    chat_template="{{ messages }}",
    chat_format="chatml",
    chat_system="You help.",
)


def test_round_trip() -> None:
    assert ModelRecord.from_bytes(RECORD.to_bytes()) == RECORD
    bare = ModelRecord(config=CONFIG, sos_id=0, eos_id=0, stop_token_ids=(0,))
    assert ModelRecord.from_bytes(bare.to_bytes()) == bare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sos_id": "1"}, "sos_id is '1', wanted int"),
        ({"eos_id": True}, "eos_id is True, wanted int"),
        ({"eos_id": 3}, r"stop_token_ids \[2, 0\] lack eos_id 3"),
        ({"sos_id": 32}, "sos_id 32 is not in the vocabulary of 32 ids"),
        ({"stop_token_ids": [2, None]}, "stop_token_ids"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"version": 2}, "version is not 1"),
        ({"tokenizer": {"kind": "spm", "files": ["a"]}}, "tokenizer kind 'spm'"),
        ({"tokenizer": {"kind": "hf_json", "files": ["../a"]}}, "plain file names"),
        ({"config": {"family": "gptj"}}, "lacks the field"),
    ],
)
def test_odd_fields_are_named(change: dict[str, Any], message: str) -> None:
    fields = json.loads(RECORD.to_bytes()) | change
    with pytest.raises(errors.InvalidArgumentError, match=message):
        ModelRecord.from_bytes(json.dumps(fields).encode())


def test_missing_field_and_no_json() -> None:
    fields = json.loads(RECORD.to_bytes())
    del fields["chat_template"]
    with pytest.raises(errors.InvalidArgumentError, match="'chat_template' is missing"):
        ModelRecord.from_bytes(json.dumps(fields).encode())
    for data in (b"{", b"[]", b"\xff"):
        with pytest.raises(errors.InvalidArgumentError, match=r"here/sax_model.json"):
            ModelRecord.from_bytes(data, "here/sax_model.json")


def test_read_from_a_checkpoint(tmp_path: pathlib.Path) -> None:
    with CheckpointWriter(str(tmp_path / "a")) as writer:
        writer.file("sax_model.json", RECORD.to_bytes())
        writer.commit()
    folder, record = read_record(str(tmp_path / "a"))
    assert record == RECORD
    assert folder.name == "checkpoint_00000000"
    with CheckpointWriter(str(tmp_path / "b")) as writer:
        writer.commit()
    with pytest.raises(errors.NotFoundError, match=r"has no sax_model.json; convert"):
        read_record(str(tmp_path / "b"))
