"""Names of the tensors that a gradient may be taken with respect to, as SAX spells them.

  gradients/inputs/embeddings                    the embedded inputs
  gradients/mdl_vars/params/lm/final_ln/scale    a weight: its path in the checkpoint

In a configuration they stand without `gradients/inputs/` and `gradients/mdl_vars/`.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.extend import core

from saxml.common import errors
from saxml.models.params import Param

EMBEDDINGS = "embeddings"
INPUT_PREFIX = "gradients/inputs/"
WEIGHT_PREFIX = "gradients/mdl_vars/"


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """A declared weight, or one layer of it."""

    name: str  # what a configuration and the answer call it
    declared: str  # its run-time name
    layer: int | None
    shape: tuple[int, ...]


def weights(declared: Mapping[str, Param]) -> dict[str, Weight]:
    """All that there are, by name."""
    found = {}
    for runtime_name, param in declared.items():
        for layer in range(param.layers) if param.layers else (None,):
            place = param.pax_name if layer is None else param.pax_name.format(layer=layer)
            name = "params/" + place.replace(".", "/")
            found[name] = Weight(name, runtime_name, layer, param.shape)
    return found


def find_weights(declared: Mapping[str, Param], names: Iterable[str]) -> list[Weight]:
    """Those that are named. Raises InvalidArgumentError for a name that is not in the checkpoint,
    with those that resemble it."""
    known = weights(declared)
    found = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4) or sorted(known)[:3]
            raise errors.InvalidArgumentError(
                f"GRADIENT_WRT_MDL_VAR_TENSOR_NAMES: the model has no {name!r}; it has"
                f" {', '.join(near)} and others"
            )
        found.append(known[name])
    return found


def check_inputs(names: Iterable[str]) -> None:
    """Raises InvalidArgumentError for an input that has no derivative."""
    for name in names:
        if name != EMBEDDINGS:
            raise errors.InvalidArgumentError(
                f"GRADIENT_WRT_INPUT_TENSOR_NAMES: {name!r} is not {EMBEDDINGS!r}, the one input"
                " with a gradient"
            )


def made_from(
    function: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    operands: Mapping[str, jax.ShapeDtypeStruct],
    chosen: set[str],
) -> list[str]:
    """Which results of function depend on the chosen ones of its operands."""
    closed, results = jax.make_jaxpr(function, return_shape=True)(dict(operands))
    touched: set[Any] = {
        variable
        for name, variable in zip(sorted(operands), closed.jaxpr.invars, strict=True)
        if name in chosen
    }

    def depends(variable: Any) -> bool:
        return not isinstance(variable, core.Literal) and variable in touched

    for equation in closed.jaxpr.eqns:
        if any(map(depends, equation.invars)):
            touched.update(equation.outvars)
    names = sorted(results)
    return [n for n, v in zip(names, closed.jaxpr.outvars, strict=True) if depends(v)]
