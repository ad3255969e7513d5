"""Declarations of parameters: the one place that says what a weight is."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, slots=True)
class Param:
    """One declared weight. Restore, sharding, random weights and the converters all read this.

    `pax_name` is the array's name in a checkpoint without the `mdl_vars.params.` prefix; "{layer}"
    in it stands for the layer's number. `shape` and `axes` are of one layer; at run time the
    `layers` of them are stacked in front. `contracted` are the axes over which a matrix is summed
    up in its product: int8 values of it have a scale for each place on the other axes. What is no
    matrix has none, and is never int8.
    """

    pax_name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    layers: int = 0
    init_scale: float = 0.02
    init_mean: float = 0.0
    contracted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"{self.pax_name}: shape {self.shape} does not fit axes {self.axes}")

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scales of int8 values of one layer."""
        return tuple(n for axis, n in enumerate(self.shape) if axis not in self.contracted)

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """Shape at run time."""
        return (self.layers, *self.shape) if self.layers else self.shape

    @property
    def stacked_axes(self) -> tuple[str | None, ...]:
        """Logical axes at run time; the stack itself is never sharded."""
        return (None, *self.axes) if self.layers else self.axes


def random_params(
    declared: Mapping[str, Param],
    key: jax.Array,
    dtype: jnp.dtype,
    sharding_of: Mapping[str, jax.sharding.Sharding],
) -> dict[str, jax.Array]:
    """Random weights by declaration, made in place on the devices that hold them."""
    made = {}
    for index, (name, param) in enumerate(declared.items()):

        def make(key: jax.Array, param: Param = param) -> jax.Array:
            noise = jax.random.normal(key, param.stacked_shape, jnp.float32)
            return (param.init_mean + param.init_scale * noise).astype(dtype)

        out = sharding_of[name]
        made[name] = jax.jit(make, out_shardings=out)(jax.random.fold_in(key, index))
    return made
