"""Model families by name. A new family is one file with these six functions and one line here."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from saxml.models import gptj, llama, views
from saxml.models.config import ModelConfig
from saxml.models.params import Param
from saxml.models.views import View
from saxml.ops.attention import Attend, Cache
from saxml.ops.linear import Columns, Rows


class Family(Protocol):
    """What a family's module offers; see gptj.py."""

    def parameters(self, c: ModelConfig, /) -> dict[str, Param]:
        """Declared weights by run-time name."""

    def views(self, c: ModelConfig, /) -> dict[str, View]:
        """Operands of `forward` and `logits`, as parts of the declared weights."""

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

    def logits(
        self,
        c: ModelConfig,
        p: Mapping[str, Any],
        hidden: jax.Array,
        valid: jax.Array | None = None,
        /,
    ) -> jax.Array:
        """Logits f32[N, V] of hidden states f[N, D]; only the first `valid` rows need be right."""


FAMILIES: dict[str, Family] = {"gptj": gptj, "llama": llama}


def family(config: ModelConfig) -> Family:
    """The module that implements config.family."""
    return FAMILIES[config.family]


def parameters(config: ModelConfig) -> dict[str, Param]:
    """Declared weights of a model, by run-time name."""
    return family(config).parameters(config)


def prepare(config: ModelConfig, restored: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Restored arrays by run-time name -> the operands of `forward`; linear in them. Not under jit,
    what needs no other layout is handed on without a copy."""
    return views.prepare(family(config).views(config), parameters(config), restored)


def operand_shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of what `prepare` gives, as float32."""
    declared = {
        name: jax.ShapeDtypeStruct(param.stacked_shape, jnp.float32)
        for name, param in parameters(config).items()
    }
    shapes: dict[str, jax.ShapeDtypeStruct] = jax.eval_shape(lambda p: prepare(config, p), declared)
    return shapes
