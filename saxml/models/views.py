"""How what `forward` reads lies in the declared weights.

views = {"q": View("qkv", lambda w: w[0].reshape(w.shape[1], -1)), "norm.scale": View("norm.scale")}
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from saxml.models.params import Param


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """An operand of one layer: a declared weight, or what `see` makes of one layer of it.

    `see` indexes, reshapes and transposes an array of JAX or of numpy, by the sizes that it finds:
    the axes that a product sums up may also be of length 1, as they are in the scales of int8.
    """

    source: str
    see: Callable[[Any], Any] | None = None

    def of(self, stored: Any) -> Any:
        """The operand of one layer."""
        return stored if self.see is None else self.see(stored)


def prepare(
    views: Mapping[str, View], declared: Mapping[str, Param], restored: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Restored arrays, layers stacked in front, to operands, stacked alike; linear in them."""
    prepared = {}
    for name, view in views.items():
        whole = restored[view.source]
        # What is needed as it is is handed on without a copy.
        if view.see is None:
            prepared[name] = whole
        else:
            see = jax.vmap(view.see) if declared[view.source].layers else view.see
            prepared[name] = see(whole)
    return prepared


def attention_views(combined: bool) -> dict[str, View]:
    """Matrices q, k, v f[D, heads * E] and out f[H * E, D] of attention, from qkv f[3, D, H, E] or
    query, key and value f[D, heads, E], and out f[D, H, E]."""
    if combined:
        seen = {n: View("qkv", functools.partial(_part, index=i)) for i, n in enumerate("qkv")}
    else:
        seen = {n[0]: View(n, _merged) for n in ("query", "key", "value")}
    return {**seen, "out": View("out", _merged_and_transposed)}


def transposed(w: Any) -> Any:
    """f[M, N] -> f[N, M]."""
    return w.T


def _part(w: Any, index: int) -> Any:
    return _merged(w[index])


def _merged(w: Any) -> Any:
    return w.reshape(w.shape[0], -1)


def _merged_and_transposed(w: Any) -> Any:
    return _merged(w).T
