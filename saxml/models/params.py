"""Declarations of parameters: the one place that says what a weight is."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

_BLOCK = 1 << 22  # random values that are made together


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
    for name, param in declared.items():
        layers = range(max(param.layers, 1))
        keys = jnp.stack([random_key(declared, key, name, layer) for layer in layers])

        def make(keys: jax.Array, param: Param = param) -> jax.Array:
            if not param.layers:
                return random_layer(param, keys[0], dtype)
            stack: jax.Array = jax.lax.map(lambda key: random_layer(param, key, dtype), keys)
            return stack

        made[name] = jax.jit(make, out_shardings=sharding_of[name])(keys)
    return made


def random_key(
    declared: Mapping[str, Param], key: jax.Array, name: str, layer: jax.typing.ArrayLike
) -> jax.Array:
    """The key of one layer of a weight; without layers, layer is 0."""
    return jax.random.fold_in(jax.random.fold_in(key, list(declared).index(name)), layer)


def random_layer(param: Param, key: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """One layer of a random weight, see random_blocks."""
    return jnp.concatenate([random_block(param, k, n, dtype) for k, n in random_blocks(param, key)])


def random_blocks(param: Param, key: jax.Array) -> list[tuple[jax.Array, int]]:
    """The blocks of rows that one layer is made of, one after the other: keys, and how many rows.
    What leads to a normal number takes several times its memory."""
    rows = max(1, _BLOCK // math.prod(param.shape[1:]))
    starts = range(0, param.shape[0], rows)
    return [(jax.random.fold_in(key, i), min(rows, param.shape[0] - i)) for i in starts]


def random_block(param: Param, key: jax.Array, rows: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Some rows of a layer of a random weight."""
    noise = jax.random.normal(key, (rows, *param.shape[1:]), jnp.float32)
    made: jax.Array = (param.init_mean + param.init_scale * noise).astype(dtype)
    return made
