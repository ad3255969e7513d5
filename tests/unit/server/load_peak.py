"""Loads a checkpoint in a process of its own and says how much memory that took."""

import concurrent.futures
import multiprocessing
import re

import jax
import jax.numpy as jnp

from saxml.checkpoint.pax import StoredWeights
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.ops.backend import Backend
from saxml.server import weights


def measure(config: ModelConfig, path: str) -> tuple[int, int]:
    """Bytes of the packed model in bfloat16, and by how much the process's memory grew at most.
    Linux only."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_load, config, path).result()


def _load(config: ModelConfig, path: str) -> tuple[int, int]:
    jnp.zeros(1).block_until_ready()
    source = StoredWeights(path, registry.parameters(config))
    backend = Backend("bfloat16")
    before = _resident("VmRSS")
    packed = weights.packed(source, config, backend, jnp.bfloat16, lambda done, total: None)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(packed))
    return size, _resident("VmHWM") - before


def _resident(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        found = re.search(rf"^{name}:\s+(\d+) kB$", file.read(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) << 10
