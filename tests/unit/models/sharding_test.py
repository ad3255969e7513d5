"""Meshes that shrink, and where arrays lie on them."""

import jax
import pytest
from jax.sharding import PartitionSpec

from saxml.common import errors
from saxml.models import sharding


@pytest.mark.parametrize(
    ("wanted", "devices", "got"),
    [
        ([1, 1, 4], 4, (1, 1, 4)),
        ([1, 1, 4], 8, (1, 1, 4)),
        ([1, 1, 4], 1, (1, 1, 1)),
        ([1, 1, 4], 3, (1, 1, 2)),
        ([1, 2, 4], 4, (1, 1, 4)),
        ([2, 2, 2], 3, (1, 1, 2)),
    ],
)
def test_mesh_shrinks_to_what_fits(wanted: list[int], devices: int, got: tuple[int, ...]) -> None:
    assert sharding.fit_mesh_shape(wanted, devices, strict=False) == got


def test_strict_mesh_is_refused_with_the_numbers() -> None:
    with pytest.raises(errors.FailedPreconditionError, match=r"needs 4 devices; this server has 1"):
        sharding.fit_mesh_shape([1, 1, 4], 1, strict=True)


@pytest.mark.parametrize("shape", [[], [1, 1], [0, 1, 1], [1, 1, -1]])
def test_odd_mesh_shape_is_refused(shape: list[int]) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="ICI_MESH_SHAPE"):
        sharding.fit_mesh_shape(shape, 8, strict=False)


def test_axis_that_does_not_divide_is_replicated() -> None:
    mesh = sharding.make_mesh((1, 1, 2), jax.devices())
    assert sharding.sharding(mesh, ("embed", "vocab"), (8, 10)).spec == PartitionSpec(None, "mdl")
    assert sharding.sharding(mesh, ("embed", "vocab"), (8, 11)).spec == PartitionSpec(None, None)
