"""What the converter knows of a model beside its weights: sax_model.json in the checkpoint."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Self

from saxml.checkpoint.folder import Folder
from saxml.checkpoint.pax import open_checkpoint
from saxml.common import errors
from saxml.models.config import ModelConfig

RECORD = "sax_model.json"
TOKENIZER_FOLDER = "tokenizer"
TOKENIZER_KINDS = ("gpt2_bpe", "hf_json", "sentencepiece", "tiktoken")
_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """Which tokenizer the model was trained with. `files` lie in tokenizer/: for "gpt2_bpe" the
    vocabulary (JSON) and the merges, for "hf_json" one tokenizer.json, for "sentencepiece" and
    "tiktoken" (a file of token ranks) one tokenizer.model."""

    kind: str
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """All that is needed to serve a checkpoint without writing a class for it.

    `sos_id` is put in front of a text prompt when `prepend_sos`; `stop_token_ids` end an answer,
    `eos_id` is one of them. `chat_template` is the model's own, kept as it came; `chat_format`
    names our renderer of it (saxml/tokenizer/chat.py), None when we have none, and `chat_system`
    is the system message that the template adds when a conversation has none.
    """

    config: ModelConfig
    sos_id: int
    eos_id: int
    stop_token_ids: tuple[int, ...]
    prepend_sos: bool = False
    tokenizer: TokenizerRecord | None = None
    chat_template: str | None = None
    chat_format: str | None = None
    chat_system: str | None = None

    def __post_init__(self) -> None:
        for name in ("sos_id", "eos_id"):
            if not 0 <= getattr(self, name) < self.config.vocab_size:
                raise errors.InvalidArgumentError(
                    f"{name} {getattr(self, name)} is not in the vocabulary of "
                    f"{self.config.vocab_size} ids"
                )
        if self.eos_id not in self.stop_token_ids:
            raise errors.InvalidArgumentError(
                f"stop_token_ids {list(self.stop_token_ids)} lack eos_id {self.eos_id}"
            )
        if self.tokenizer and self.tokenizer.kind not in TOKENIZER_KINDS:
            raise errors.InvalidArgumentError(
                f"tokenizer kind {self.tokenizer.kind!r} is not one of {', '.join(TOKENIZER_KINDS)}"
            )

    def to_bytes(self) -> bytes:
        """The file."""
        fields = dataclasses.asdict(self) | {"config": self.config.to_json()}
        return json.dumps({"version": _VERSION, **fields}, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str = RECORD) -> Self:
        """Parses the file. Raises InvalidArgumentError that names the missing, unknown or mistyped
        field."""
        try:
            fields = json.loads(data)
        except ValueError as error:
            raise errors.InvalidArgumentError(f"{where} is not JSON: {error}") from error
        try:
            return cls(**_parse(fields))
        except errors.InvalidArgumentError as error:
            raise errors.InvalidArgumentError(f"{where}: {error}") from error


def read_record(path: str) -> tuple[Folder, ModelRecord]:
    """The record of the checkpoint at `path`, and the checkpoint's folder.

    Raises as open_checkpoint does, and NotFoundError for a checkpoint that our converters did not
    write.
    """
    folder = open_checkpoint(path).folder
    data = folder.read(RECORD)
    if data is None:
        raise errors.NotFoundError(
            f"checkpoint {folder.path} has no {RECORD}; convert the model with //tools/convert, or "
            "publish it with a class of its own"
        )
    return folder, ModelRecord.from_bytes(data, f"{folder.path}/{RECORD}")


def _parse(parsed: Any) -> dict[str, Any]:
    if not isinstance(parsed, dict):
        raise errors.InvalidArgumentError("not a JSON object")
    fields: dict[str, Any] = dict(parsed)
    if fields.pop("version", None) != _VERSION:
        raise errors.InvalidArgumentError(f"the version is not {_VERSION}; convert the model again")
    wanted = {f.name: f for f in dataclasses.fields(ModelRecord)}
    for name in fields:
        if name not in wanted:
            raise errors.InvalidArgumentError(f"unknown field {name!r}")
    for name in wanted:
        if name not in fields:
            raise errors.InvalidArgumentError(f"the field {name!r} is missing")
    for name, kinds in (
        ("config", (dict,)),
        ("sos_id", (int,)),
        ("eos_id", (int,)),
        ("stop_token_ids", (list,)),
        ("prepend_sos", (bool,)),
        ("tokenizer", (dict, type(None))),
        ("chat_template", (str, type(None))),
        ("chat_format", (str, type(None))),
        ("chat_system", (str, type(None))),
    ):
        if type(fields[name]) not in kinds:
            raise errors.InvalidArgumentError(
                f"{name} is {fields[name]!r}, wanted {' or '.join(k.__name__ for k in kinds)}"
            )
    if not all(type(i) is int for i in fields["stop_token_ids"]):
        raise errors.InvalidArgumentError(f"stop_token_ids is {fields['stop_token_ids']!r}")
    fields["stop_token_ids"] = tuple(fields["stop_token_ids"])
    fields["config"] = ModelConfig.from_json(fields["config"])
    if fields["tokenizer"] is not None:
        fields["tokenizer"] = _parse_tokenizer(fields["tokenizer"])
    return fields


def _parse_tokenizer(fields: Mapping[str, Any]) -> TokenizerRecord:
    if set(fields) != {"kind", "files"} or not isinstance(fields["kind"], str):
        raise errors.InvalidArgumentError(f"tokenizer is {dict(fields)!r}, wanted kind and files")
    files = fields["files"]
    if not isinstance(files, list) or not all(
        isinstance(f, str) and f and "/" not in f and f not in (".", "..") for f in files
    ):
        raise errors.InvalidArgumentError(f"tokenizer files are {files!r}, wanted plain file names")
    return TokenizerRecord(kind=fields["kind"], files=tuple(files))
