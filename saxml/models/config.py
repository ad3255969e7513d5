"""What a decoder-only language model is made of, apart from its weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from saxml.common import errors
from saxml.ops.heads import Heads

FAMILIES = ("gptj", "llama")
ROTARY_STYLES = ("pairs", "halves")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and variants of one model. Letters: L layers, D model dim, H heads, K kv heads, E head
    dim, F hidden, V vocab.

    `rotary_style` says which dims of a head rotate together: "pairs" are adjacent ones (GPT-J, GGUF
    Llama), "halves" are d and d + rotary_dim / 2 (Hugging Face Llama). It is recorded with the
    weights, never guessed.
    """

    family: str
    num_layers: int
    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    rotary_dim: int
    rotary_base: float
    rotary_style: str
    norm_eps: float
    tied_embeddings: bool
    combined_qkv: bool
    max_positions: int

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise errors.InvalidArgumentError(
                f"model family {self.family!r} is not one of {', '.join(FAMILIES)}"
            )
        if self.rotary_style not in ROTARY_STYLES:
            raise errors.InvalidArgumentError(
                f"rotary_style {self.rotary_style!r} is not one of {', '.join(ROTARY_STYLES)}"
            )
        for name in (
            "num_layers",
            "model_dim",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "hidden_dim",
            "vocab_size",
            "max_positions",
        ):
            if getattr(self, name) < 1:
                raise errors.InvalidArgumentError(f"{name} is {getattr(self, name)}; must be >= 1")
        if self.num_heads % self.num_kv_heads:
            raise errors.InvalidArgumentError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
            raise errors.InvalidArgumentError(
                f"rotary_dim {self.rotary_dim} must be even and at most head_dim {self.head_dim}"
            )

    @property
    def heads(self) -> Heads:
        """What attention has to know."""
        return Heads(self.num_heads, self.num_kv_heads, self.head_dim, self.rotary_style)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object, what from_json takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Parses what to_json gives. Raises InvalidArgumentError that names the missing, unknown or
        mistyped field."""
        wanted = {f.name: f.type for f in dataclasses.fields(cls)}
        for name in fields:
            if name not in wanted:
                raise errors.InvalidArgumentError(f"unknown model config field {name!r}")
        parsed: dict[str, Any] = {}
        for name, kind in wanted.items():
            if name not in fields:
                raise errors.InvalidArgumentError(f"model config lacks the field {name!r}")
            value = fields[name]
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise errors.InvalidArgumentError(
                    f"model config field {name!r} is {value!r}; must be of type {kind}"
                )
            parsed[name] = value
        return cls(**parsed)
