"""Model families by name. A new family is one file with these six functions and one line here."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from saxml.models import gptj, llama
from saxml.models.config import ModelConfig
from saxml.models.params import Param
from saxml.ops.attention import Attend, Cache
from saxml.ops.linear import Columns, Rows


class Family(Protocol):
    """What a family's module offers; see gptj.py."""

    def parameters(self, c: ModelConfig, /) -> dict[str, Param]:
        """Declared weights by run-time name."""

    def prepare(self, c: ModelConfig, p: Mapping[str, jax.Array], /) -> dict[str, jax.Array]:
        """Restored arrays to operands of `forward`."""

    def products(self, c: ModelConfig, /) -> Sequence[Columns | Rows]:
        """What `forward` and `logits` multiply with, for those who pack it."""

    def embed(self, p: Mapping[str, Any], tokens: jax.Array, /) -> jax.Array:
        """What `forward` takes in, f[T, D], of tokens i32[T]."""

    def forward(
        self,
        c: ModelConfig,
        p: Mapping[str, Any],
        x: jax.Array,
        positions: jax.Array,
        attend: Attend[Cache],
        cache: Cache,
        valid: jax.Array | None = None,
        /,
    ) -> tuple[jax.Array, Cache]:
        """Hidden states f[T, D] of one step, and what `attend` made of the cache."""

    def logits(self, c: ModelConfig, p: Mapping[str, Any], hidden: jax.Array, /) -> jax.Array:
        """Logits f32[N, V] of hidden states f[N, D]."""


FAMILIES: dict[str, Family] = {"gptj": gptj, "llama": llama}


def family(config: ModelConfig) -> Family:
    """The module that implements config.family."""
    return FAMILIES[config.family]


def parameters(config: ModelConfig) -> dict[str, Param]:
    """Declared weights of a model, by run-time name."""
    return family(config).parameters(config)
