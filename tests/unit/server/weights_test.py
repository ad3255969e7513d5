"""Weights packed while they are read are those that are packed at once."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml.checkpoint import pax
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models import params, registry, sharding
from saxml.models.config import ModelConfig
from saxml.models.params import Param
from saxml.ops.backend import Backend, Element
from saxml.ops.linear import Operand
from saxml.server import weights
from tests.unit.engine import tiny
from tools.convert.quantize import quantize

UNTIED = dataclasses.replace(tiny.LLAMA, tied_embeddings=False, num_layers=3)
KEY = jax.random.key(7)


def no_progress(done: int, total: int) -> None:
    """Nobody looks."""


@functools.cache
def whole(config: ModelConfig) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(7)
    return {
        name: random.normal(param.init_mean, 0.02, param.stacked_shape).astype(np.float32)
        for name, param in registry.parameters(config).items()
    }


class Arrays:
    """A Source of `whole`."""

    def __init__(self, config: ModelConfig) -> None:
        self._declared = registry.parameters(config)
        self._arrays = whole(config)

    def nbytes(self, name: str) -> int:
        return self._arrays[name].nbytes // max(self._declared[name].layers, 1)

    def read(self, name: str, layer: int) -> Callable[[], pax.Stored]:
        values = self._arrays[name]
        return lambda: pax.Stored(values[layer] if self._declared[name].layers else values)


def write(parent: pathlib.Path, config: ModelConfig, dtype: str) -> str:
    arrays = whole(config)
    with CheckpointWriter(str(parent)) as writer:
        for name, param in registry.parameters(config).items():
            values = arrays[name].astype(dtype)
            for layer in range(max(param.layers, 1)):
                one = values[layer] if param.layers else values
                pax_name = param.pax_name.format(layer=layer)
                writer.array(pax_name, one.shape, dtype).put(one)
        writer.commit()
        return writer.folder.path


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    def same(one: jax.Array, other: jax.Array) -> None:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)

    jax.tree.map(same, found, wanted)


@pytest.mark.parametrize("element", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("config", [tiny.GPTJ, tiny.LLAMA, UNTIED], ids=["gptj", "tied", "llama"])
def test_pieces_are_packed_as_all_at_once(config: ModelConfig, element: Element) -> None:
    backend = Backend(element)
    found = weights.packed(Arrays(config), config, backend, jnp.float32, no_progress)
    restored = {name: jnp.asarray(values) for name, values in whole(config).items()}
    prepared = registry.prepare(config, restored)
    assert_same(found, backend.pack(prepared, registry.family(config).products(config)))
    assert ("embedding" in found) != config.tied_embeddings


def test_random_weights_are_those_of_plain_jax() -> None:
    declared = {
        "vector": Param("b", (40,), (None,), init_scale=1),
        "blocks": Param("w", (40, 5, 7), (None,) * 3, layers=2, init_mean=3),
    }
    place = sharding.replicated(sharding.make_mesh((1, 1, 1), jax.devices()))
    places = dict.fromkeys(declared, place)
    with mock.patch.object(params, "_BLOCK", 9 * 5 * 7):
        wanted = params.random_params(declared, KEY, jnp.dtype(jnp.bfloat16), places)
        source = weights.RandomWeights(declared, KEY, jnp.bfloat16)
        np.testing.assert_array_equal(source.read("vector", 0)().values, wanted["vector"])
        for layer in range(2):
            found = source.read("blocks", layer)().values
            assert found.nbytes == source.nbytes("blocks")
            np.testing.assert_array_equal(found, wanted["blocks"][layer])
    values = np.asarray(wanted["blocks"], np.float32)
    assert abs(values.mean() - 3) < 0.01
    assert len(np.unique(np.asarray(wanted["vector"]))) > 30


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [tiny.GPTJ, tiny.LLAMA], ids=["gptj", "tied"])
def test_a_checkpoint_is_packed_as_it_is_restored(
    tmp_path: pathlib.Path, config: ModelConfig, stored: str
) -> None:
    path = write(tmp_path, config, stored)
    declared = registry.parameters(config)
    seen: list[tuple[int, int]] = []
    found = weights.packed(
        pax.StoredWeights(path, declared),
        config,
        Backend("bfloat16"),
        jnp.bfloat16,
        lambda done, total: seen.append((done, total)),
    )
    prepared = registry.prepare(config, pax.restore(path, declared, dtype=np.float32))
    wanted = Backend("bfloat16").pack(prepared, registry.family(config).products(config))
    kept = {n: w.astype(jnp.bfloat16) for n, w in wanted.items() if isinstance(w, jax.Array)}
    assert_same(found, {**wanted, **kept})
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {total for _, total in seen} == {seen[-1][0]}


def test_what_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(write(tmp_path, tiny.GPTJ, "float32"))
    source = pax.StoredWeights(str(path), registry.parameters(tiny.GPTJ))
    array = path / "state" / "mdl_vars.params.lm.transformer.x_layers_1.self_attention.post.w"
    (array / "0.0.0").write_bytes(b"not gzip")
    with pytest.raises(errors.SaxError, match=r"x_layers_1\.self_attention\.post\.w in"):
        weights.packed(source, tiny.GPTJ, Backend("bfloat16"), jnp.bfloat16, no_progress)


def test_int8_values_are_packed_as_they_are_stored(tmp_path: pathlib.Path) -> None:
    """Packed are the integers of the checkpoint, which are those that a load makes of floats."""
    for config in (tiny.GPTJ, UNTIED):
        declared = registry.parameters(config)
        path = write(tmp_path / config.family, config, "float32")
        small = quantize(path, str(tmp_path / f"{config.family}_int8"))
        made, kept = (
            weights.packed(
                pax.StoredWeights(p, declared), config, Backend("int8"), jnp.float32, no_progress
            )
            for p in (path, small)
        )
        assert_same(made, kept)
        # Every matrix by itself, whatever lies beside or below it.
        packed = [p for o in kept.values() if isinstance(o, Operand) for p in o.packed]
        # They are packed 128 too large; what fills a panel up is 0.
        bytes_ = [np.asarray(p.units).view(np.uint8).astype(int) for p in packed]
        totals = sum(np.abs(b - 128)[b > 0].sum() for b in bytes_)
        stored = pax.StoredWeights(small, declared)
        assert totals == sum(
            np.abs(stored.read(name, layer)().values.astype(int)).sum()
            for name, param in declared.items()
            if param.contracted
            for layer in range(max(param.layers, 1))
        )


def test_scales_are_seen_as_their_values_are() -> None:
    """int8 values as they are stored, and what they stand for, give the same matrices."""
    config = tiny.GPTJ
    declared = registry.parameters(config)

    class Quantised(Arrays):
        def __init__(self, wide: bool) -> None:
            super().__init__(config)
            self._wide = wide

        def read(self, name: str, layer: int):  # type: ignore[no-untyped-def]
            param, found = declared[name], super().read(name, layer)()
            if not param.contracted:
                return lambda: found
            size = np.abs(found.values).max(param.contracted, keepdims=True)
            # A power of two: products with it are exact.
            scale = np.exp2(np.ceil(np.log2(size / 127))).astype(np.float32)
            values = np.rint(found.values / scale).astype(np.int8)
            stored = pax.Stored(values * scale) if self._wide else pax.Stored(values, scale)
            return lambda: stored

    both = [
        weights.packed(Quantised(wide), config, Backend("float32"), jnp.float32, no_progress)
        for wide in (True, False)
    ]
    assert_same(*both)
