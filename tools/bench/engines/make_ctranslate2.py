"""A folder for CTranslate2 from a Hugging Face folder: make_ctranslate2 HF_FOLDER OUT WEIGHTS."""

import json
import pathlib
import sys
from typing import Any

from ctranslate2.converters import transformers as converters


class _Tokens:
    """A vocabulary of `size` tokens <0>, <1>, ...: the converter wants one, and models with random
    weights have none. The last ends answers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.bos_token = self.eos_token = self.unk_token = f"<{size - 1}>"

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return {f"<{number}>": number for number in range(self._size)}


class _Converter(converters.TransformersConverter):  # type: ignore[misc]
    def load_tokenizer(self, kind: Any, name: str, **options: Any) -> _Tokens:
        config = json.loads((pathlib.Path(name) / "config.json").read_text())
        return _Tokens(config["vocab_size"])


if __name__ == "__main__":
    _Converter(sys.argv[1]).convert(sys.argv[2], quantization=sys.argv[3], force=True)
