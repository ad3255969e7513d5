"""int8 arrays of a checkpoint: what they stand for is restored, and what is wrong with their scales
is named."""

import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from saxml.checkpoint import pax, quantised, slices
from saxml.checkpoint.folder import Folder
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models.params import Param

PARAMS = {
    "head": Param("head.w", (4, 6), ("embed", "vocab"), contracted=(0,)),
    "out": Param("layer_{layer}.out", (4, 3, 2), (None, None, None), 2, contracted=(1, 2)),
    "b": Param("b", (5,), (None,)),
}
SCALE = "mdl_vars.params.layer_1.out_quantized_scale"
Arrays = dict[str, np.ndarray[Any, Any]]


def arrays(seed: int = 0) -> Arrays:
    """As they are stored: layer 0 of out in floats, what else is a matrix in int8."""
    random = np.random.default_rng(seed)
    found: Arrays = {"b": random.normal(size=5).astype(np.float32)}
    for name, shape, axes in (("head.w", (4, 6), (0,)), ("layer_1.out", (4, 3, 2), (1, 2))):
        found[name] = random.integers(-127, 128, shape).astype(np.int8)
        scale = random.uniform(0.01, 0.1, [n for i, n in enumerate(shape) if i not in axes])
        found[quantised.scale_name(name)] = scale.astype(np.float32)
    found["layer_0.out"] = random.normal(size=(4, 3, 2)).astype(np.float32)
    return found


def write(parent: pathlib.Path, stored: Arrays) -> str:
    with CheckpointWriter(str(parent)) as writer:
        for name, values in stored.items():
            writer.array(name, values.shape, values.dtype.name).put(values)
        writer.commit()
        return writer.folder.path


def test_plain_jax_gets_what_the_integers_stand_for(tmp_path: pathlib.Path) -> None:
    stored = arrays()
    path = write(tmp_path, stored)
    head = stored["head.w"] * stored["head.w_quantized_scale"]
    out = stored["layer_1.out"] * stored["layer_1.out_quantized_scale"][:, None, None]
    restored = pax.restore(path, PARAMS)
    np.testing.assert_array_equal(restored["head"], head)
    np.testing.assert_array_equal(restored["out"], [stored["layer_0.out"], out])
    assert restored["head"].dtype == np.float32
    narrow = pax.restore(path, PARAMS, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(narrow["head"], head.astype(jnp.bfloat16))


def test_layers_are_read_with_their_scales(tmp_path: pathlib.Path) -> None:
    stored = arrays()
    weights = pax.StoredWeights(write(tmp_path, stored), PARAMS)
    plain, small = (weights.read("out", layer)() for layer in range(2))
    assert plain.scale is None
    np.testing.assert_array_equal(plain.values, stored["layer_0.out"])
    assert small.scale is not None
    assert small.values.dtype == np.int8
    np.testing.assert_array_equal(small.values, stored["layer_1.out"])
    assert small.scale.shape == (4, 1, 1)
    np.testing.assert_array_equal(small.scale.ravel(), stored["layer_1.out_quantized_scale"])


def test_a_device_reads_its_part_of_values_and_scales() -> None:
    random = np.random.default_rng(1)
    values = random.integers(-127, 128, (2, 4, 3, 2)).astype(np.int8)
    scales = random.uniform(0.01, 0.1, (2, 4, 1, 1)).astype(np.float32)
    source = slices.StackedSource(
        [ts.array(layer) for layer in values],
        values.shape,
        np.dtype(np.float32),
        stacked=True,
        scales=list(scales),
    )
    part = (slice(1, 2), slice(1, 3), slice(0, 3), slice(1, 2))
    np.testing.assert_array_equal(source.read(part), (values * scales)[part])


@pytest.mark.parametrize("vocab", [5, 8])
def test_another_vocabulary_is_cut_or_filled(tmp_path: pathlib.Path, vocab: int) -> None:
    stored = arrays()
    path = write(tmp_path, stored)
    params = {"head": Param("head.w", (4, vocab), ("embed", "vocab"), contracted=(0,))}
    wanted = np.zeros((4, 8), np.float32)
    wanted[:, :6] = stored["head.w"] * stored["head.w_quantized_scale"]
    np.testing.assert_array_equal(pax.restore(path, params)["head"], wanted[:, :vocab])
    read = pax.StoredWeights(path, params).read("head", 0)()
    assert read.scale is not None
    np.testing.assert_array_equal(read.values * read.scale, wanted[:, :vocab])


def refused(parent: pathlib.Path, stored: Arrays, kind: type[Exception], text: str) -> None:
    path = write(parent, stored)
    for read in (pax.restore, pax.StoredWeights):
        with pytest.raises(kind, match=re.escape(text)):
            read(path, PARAMS)


def test_int8_without_scales(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, arrays())
    Folder(path).delete_array(f"state/{SCALE}")
    with pytest.raises(errors.NotFoundError) as error:
        pax.restore(path, PARAMS)
    assert str(error.value).endswith(
        f"array {SCALE} is not there, and mdl_vars.params.layer_1.out is int8; copy the whole "
        "folder, or quantise the model again with //tools/convert:quantize"
    )


@pytest.mark.parametrize("wrong", [0.0, -0.5, np.nan, np.inf])
def test_scales_that_are_no_positive_numbers(tmp_path: pathlib.Path, wrong: float) -> None:
    stored = arrays()
    stored["layer_1.out_quantized_scale"][2] = wrong
    text = f"array {SCALE} has {wrong} at [2], and a scale is a positive number"
    refused(tmp_path, stored, errors.FailedPreconditionError, text)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.ones((3, 2), np.float32), "float32 of shape [3, 2]"),
        (np.ones(6, np.float32), "float32 of shape [6]"),
        (np.ones(4, np.int8), "int8 of shape [4]"),
    ],
)
def test_scales_of_another_shape_or_type(
    tmp_path: pathlib.Path, values: np.ndarray[Any, Any], found: str
) -> None:
    stored = {**arrays(), "layer_1.out_quantized_scale": values}
    text = f"array {SCALE} is {found}, wanted float32 of shape [4]; quantise the model again"
    refused(tmp_path, stored, errors.FailedPreconditionError, text)


def test_what_is_no_matrix_is_not_int8(tmp_path: pathlib.Path) -> None:
    stored = {**arrays(), "b": np.ones(5, np.int8)}
    text = "array mdl_vars.params.b is int8, which only the matrices of layers and of the output"
    refused(tmp_path, stored, errors.FailedPreconditionError, text)
