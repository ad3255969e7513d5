"""What an engine has on the device: the pages, and one compiled step for each bucket."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from saxml.engine import step as step_lib
from saxml.engine.options import EngineOptions
from saxml.models import sharding
from saxml.models.config import ModelConfig
from saxml.ops import attention

Progress = Callable[[str], None]
Step = Callable[..., Any]  # see step.make_step
# A step is timed so often, or until so much time has gone.
_MEASURED_STEPS = 5
_MEASURED_S = 0.5


def make_pages(
    config: ModelConfig, options: EngineOptions, mesh: Mesh, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Pages of keys and values, dtype[L, P, S, 2, K, E], spread over the mesh."""
    c, o = config, options
    shape = (c.num_layers, o.num_pages, o.page_size, 2, c.num_kv_heads, c.head_dim)
    make = jax.jit(
        lambda: attention.make_pages(*shape[:3], *shape[4:], np.dtype(dtype)),
        out_shardings=_pages_sharding(mesh, shape),
    )
    pages: jax.Array = make()
    return pages


def _pages_sharding(mesh: Mesh, shape: tuple[int, ...]) -> jax.sharding.Sharding:
    return sharding.sharding(mesh, (None,) * 4 + ("kv_heads", "head_dim"), shape)


def compile_steps(
    config: ModelConfig,
    options: EngineOptions,
    offsets: Mapping[int, step_lib.Offsets],
    arguments: tuple[Mapping[str, jax.Array], jax.Array, Mapping[int, jax.Array], jax.Array],
    mesh: Mesh,
    progress: Progress,
) -> dict[int, Step]:
    """The step of each bucket. arguments: parameters, pages, changes by bucket, and the tokens that
    the last step chose, as steps will be called with them."""
    params, pages, changes, chosen = arguments
    replicated = sharding.replicated(mesh)
    outputs = (replicated, replicated, replicated, _pages_sharding(mesh, pages.shape))
    steps: dict[int, Step] = {}
    for bucket in options.buckets:
        start = time.monotonic()
        length = packed_length(offsets[bucket])
        packed = jax.ShapeDtypeStruct((length,), np.int32, sharding=replicated)
        step = step_lib.make_step(config, options, bucket, offsets[bucket])
        jitted = jax.jit(step, donate_argnums=1, out_shardings=outputs)
        steps[bucket] = jitted.lower(params, pages, packed, changes[bucket], chosen).compile()
        progress(f"compiled the {bucket}-token step in {time.monotonic() - start:.1f} s")
    return steps


def packed_length(offsets: step_lib.Offsets) -> int:
    """Words of a packed plan."""
    return max(first + count for first, count in offsets.values())


def empty_plan(options: EngineOptions, offsets: step_lib.Offsets) -> np.ndarray:
    """A packed plan without rows, which writes nothing."""
    packed = np.zeros(packed_length(offsets), np.int32)
    first, count = offsets["slots"]
    packed[first : first + count] = options.num_pages * options.page_size
    return packed


def measure(
    step: Step,
    params: Mapping[str, jax.Array],
    pages: jax.Array,
    packed: np.ndarray,
    changes: jax.Array,
    chosen: jax.Array,
) -> tuple[float, jax.Array, jax.Array]:
    """Seconds of a step without rows, whose products are those of a full one; and what it gives
    back for the next one: chosen and pages."""
    took: list[float] = []
    while len(took) < _MEASURED_STEPS and sum(took) < _MEASURED_S:
        start = time.monotonic()
        found, _, chosen, pages = step(params, pages, packed, changes, chosen)
        np.asarray(found)
        took.append(time.monotonic() - start)
    return min(took), chosen, pages
