"""Restoring onto a mesh of four CPU devices."""

import os
import pathlib

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import numpy as np
import pytest

from saxml.checkpoint import pax
from saxml.checkpoint.writer import CheckpointWriter
from saxml.models.params import Param

PARAMS = {
    "w": Param("w_{layer}", (4, 6), ("embed", "mlp"), 3),
    "v": Param("v", (7, 2), ("vocab", "embed")),
}


def test_each_device_gets_its_part(tmp_path: pathlib.Path) -> None:
    if len(jax.devices()) < 4:
        pytest.skip(f"JAX was started with {len(jax.devices())} devices in this process; needs 4")
    w = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    v = np.arange(1, 15, dtype=np.float32).reshape(7, 2)
    with CheckpointWriter(str(tmp_path), chunk_bytes=30) as writer:
        for layer in range(3):
            writer.array(f"w_{layer}", (4, 6), "float32").put(w[layer])
        writer.array("v", (7, 2), "float32").put(v)
        writer.commit()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))
    spec = {
        "w": jax.sharding.PartitionSpec(None, "a", "b"),
        "v": jax.sharding.PartitionSpec(("a", "b")),
    }
    asked = {}

    def sharding_of(name: str, param: Param) -> jax.sharding.Sharding:
        asked[name] = param
        return jax.sharding.NamedSharding(mesh, spec[name])

    params = {**PARAMS, "v": Param("v", (12, 2), ("vocab", "embed"))}
    restored = pax.restore(str(tmp_path), params, sharding_of=sharding_of)
    assert asked == params
    assert restored["w"].sharding.is_equivalent_to(sharding_of("w", params["w"]), 3)
    assert {s.data.shape for s in restored["w"].addressable_shards} == {(3, 2, 3)}
    np.testing.assert_array_equal(restored["w"], w)
    assert {s.data.shape for s in restored["v"].addressable_shards} == {(3, 2)}
    np.testing.assert_array_equal(restored["v"][:7], v)
    np.testing.assert_array_equal(restored["v"][7:], 0)
