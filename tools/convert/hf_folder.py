"""A Hugging Face model folder: configuration, tensors, tokenizer, chat template."""

import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from saxml.checkpoint.record import TokenizerRecord
from saxml.common import errors
from saxml.tokenizer import bpe, load
from saxml.tokenizer.kinds import kind_of
from tools.convert import safetensors_reader, torch_reader
from tools.convert.mapping import Tensors

T = TypeVar("T")


class HfFolder:
    """One folder. Raises NotFoundError when it or its config.json is not there."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not os.path.isdir(path):
            raise errors.NotFoundError(
                f"no folder {path}; --base takes a local folder with config.json and *.safetensors "
                "(a model of the Hugging Face hub is fetched with: hf download MODEL --local-dir "
                "DIR)"
            )
        if not os.path.exists(os.path.join(path, "config.json")):
            raise errors.NotFoundError(f"{path} has no config.json; is it a Hugging Face model?")
        self.config = Fields(self.json("config.json"), os.path.join(path, "config.json"))

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; {} when the file is not there."""
        path = os.path.join(self.path, name)
        if not os.path.exists(path):
            return {}
        try:
            with open(path, encoding="utf-8") as file:
                parsed = json.load(file)
        except ValueError as error:
            raise errors.InvalidArgumentError(f"{path} is not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise errors.InvalidArgumentError(f"{path} is not a JSON object")
        return parsed

    def tensors(self) -> Tensors:
        """Its weights: safetensors if there are any, else pytorch_model.bin."""
        here = set(os.listdir(self.path))
        if here & {safetensors_reader.SINGLE, safetensors_reader.INDEX}:
            return safetensors_reader.SafetensorsFolder(self.path)
        if here & {torch_reader.SINGLE, torch_reader.INDEX}:
            return torch_reader.TorchFolder(self.path)
        raise errors.NotFoundError(
            f"{self.path} has neither {safetensors_reader.SINGLE} nor {safetensors_reader.INDEX} "
            f"nor {torch_reader.SINGLE}"
        )

    def tokenizer(self) -> tuple[TokenizerRecord | None, dict[str, bytes]]:
        """Which tokenizer it has, and the files; (None, {}) when it has none that we read.
        Raises InvalidArgumentError for a tokenizer.model that is none."""
        if self._has(load.HF_FILE):
            return self._tokenizer("hf_json", (load.HF_FILE,))
        if self._has(load.MODEL_FILE):
            data = self._bytes(load.MODEL_FILE)
            kind = kind_of(data, os.path.join(self.path, load.MODEL_FILE))
            if kind == "vocabulary":
                raise errors.InvalidArgumentError(
                    f"{self.path}/{load.MODEL_FILE} is a GPT-2 vocabulary; call it encoder.json and"
                    " its merges vocab.bpe"
                )
            return self._tokenizer(kind, (load.MODEL_FILE,))
        for files in load.GPT2_FILES:
            if all(map(self._has, files)):
                return self._tokenizer("gpt2_bpe", files)
        return None, {}

    def prepends_start(self, start: int) -> bool:
        """Whether a prompt begins with the token `start`: add_bos_token of tokenizer_config.json,
        else what the tokenizer.json does, else what Llama's own code does with a tokenizer.model,
        which is to put it there."""
        said = self.json("tokenizer_config.json").get("add_bos_token")
        if isinstance(said, bool):
            return said
        if self._has(load.HF_FILE):
            where = os.path.join(self.path, load.HF_FILE)
            return bpe.put_in_front(self._bytes(load.HF_FILE), where) == [start]
        return self._has(load.MODEL_FILE)

    def chat_template(self) -> str | None:
        """The template as text: of chat_template.jinja, else of tokenizer_config.json."""
        path = os.path.join(self.path, "chat_template.jinja")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
        template = self.json("tokenizer_config.json").get("chat_template")
        return template if isinstance(template, str) else None

    def stop_token_ids(self) -> tuple[int, ...]:
        """eos_token_id of generation_config.json, else config.json; the first is the main one."""
        for name in ("generation_config.json", "config.json"):
            found = self.json(name).get("eos_token_id")
            ids = found if isinstance(found, list) else [found]
            if ids and all(type(i) is int for i in ids):
                return tuple(ids)
        raise errors.InvalidArgumentError(
            f"{self.path}/config.json: eos_token_id is missing or not a token id"
        )

    def _tokenizer(
        self, kind: str, files: tuple[str, ...]
    ) -> tuple[TokenizerRecord, dict[str, bytes]]:
        return TokenizerRecord(kind=kind, files=files), {name: self._bytes(name) for name in files}

    def _has(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self.path, name))

    def _bytes(self, name: str) -> bytes:
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()


class Fields:
    """Typed access to a configuration; errors name the file and the field."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields = fields
        self.where = where

    def has(self, name: str) -> bool:
        """Whether it is there and not null."""
        return self._fields.get(name) is not None

    def number(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self._get(name, default)
        if type(value) is not int or value < 1:
            raise self.bad(name, value, "a positive whole number")
        return value

    def token(self, name: str, default: int | None = None) -> int:
        """A token id."""
        value = self._get(name, default)
        if type(value) is not int or value < 0:
            raise self.bad(name, value, "a token id")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._get(name, default)
        if type(value) not in (int, float) or value <= 0:
            raise self.bad(name, value, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if type(value) is not bool:
            raise self.bad(name, value, "true or false")
        return value

    def child(self, name: str) -> "Fields":
        """A nested object."""
        value = self._get(name, None)
        if not isinstance(value, dict):
            raise self.bad(name, value, "an object")
        return Fields(value, f"{self.where}: {name}")

    def items(self, name: str, kind: type[T]) -> list[T]:
        """A list of values of one type."""
        value = self._get(name, None)
        if not isinstance(value, list) or not all(type(v) is kind for v in value):
            raise self.bad(name, type(value).__name__, f"a list of {kind.__name__}")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """One of some words; UnimplementedError for another."""
        value = self._get(name, default)
        if value not in allowed:
            raise errors.UnimplementedError(
                f"{self.where}: {name} is {value!r}; implemented: {', '.join(allowed)}"
            )
        return str(value)

    def bad(self, name: str, value: Any, wanted: str) -> errors.SaxError:
        """The error for an unusable value."""
        return errors.InvalidArgumentError(f"{self.where}: {name} is {value!r}, wanted {wanted}")

    def _get(self, name: str, default: Any) -> Any:
        value = self._fields.get(name)
        if value is None:
            value = default
        if value is None:
            raise errors.InvalidArgumentError(f"{self.where}: the field {name} is missing")
        return value
