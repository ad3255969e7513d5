"""From logical axes to the devices of a mesh: one table, which layers never see."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from saxml.common import errors

# SAX's axis names, outermost first.
AXIS_NAMES = ("replica", "data_mdl2", "mdl")

# Logical axes that are split over the model axis; all others are replicated.
SPLIT_AXES = frozenset({"heads", "kv_heads", "mlp", "vocab"})


def fit_mesh_shape(wanted: Sequence[int], num_devices: int, *, strict: bool) -> tuple[int, ...]:
    """The mesh shape to use for `wanted` (replica, data, model) on num_devices devices.

    A mesh that needs more devices than there are shrinks, from its outermost axis on, to the
    largest divisors that fit, and says so in the log; `strict` refuses instead.
    """
    if len(wanted) != len(AXIS_NAMES) or any(n < 1 for n in wanted):
        raise errors.InvalidArgumentError(
            f"ICI_MESH_SHAPE {list(wanted)} must be {len(AXIS_NAMES)} positive numbers"
            f" ({', '.join(AXIS_NAMES)})"
        )
    if math.prod(wanted) <= num_devices:
        return tuple(wanted)
    if strict:
        raise errors.FailedPreconditionError(
            f"ICI_MESH_SHAPE {list(wanted)} needs {math.prod(wanted)} devices; this server has"
            f" {num_devices} (drop --strict_mesh to let it shrink)"
        )
    shape = list(wanted)
    for axis in range(len(shape)):
        rest = math.prod(shape) // shape[axis]
        fitting = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
        shape[axis] = max((n for n in fitting if n * rest <= num_devices), default=1)
        if math.prod(shape) <= num_devices:
            break
    logging.warning(
        "ICI_MESH_SHAPE %s needs %d devices; this server has %d, so the mesh shrinks to %s.",
        list(wanted),
        math.prod(wanted),
        num_devices,
        shape,
    )
    return tuple(shape)


def make_mesh(shape: Sequence[int], devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of the first prod(shape) devices."""
    count = math.prod(shape)
    return Mesh(np.array(devices[:count]).reshape(tuple(shape)), AXIS_NAMES)


def sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """How an array with these logical axes lies on the mesh.

    The first axis in SPLIT_AXES whose size the model axis divides is split over it; an axis that it
    does not divide (GPT-J's 50,401 rows of vocabulary over 4) is replicated.
    """
    split = mesh.shape["mdl"]
    spec: list[str | None] = [None] * len(axes)
    for place, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        if axis in SPLIT_AXES and split > 1 and size % split == 0:
            spec[place] = "mdl"
            break
    return NamedSharding(mesh, PartitionSpec(*spec))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(
    mesh: Mesh, axes: Mapping[str, tuple[Sequence[str | None], Sequence[int]]]
) -> dict[str, NamedSharding]:
    """`sharding` for each name -> (axes, shape)."""
    return {name: sharding(mesh, a, s) for name, (a, s) in axes.items()}
