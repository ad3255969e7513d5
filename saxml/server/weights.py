"""The weights of a model as its backend reads them.

Plain JAX takes restored arrays. For the CPU kernels, what is read is packed piece by piece and
dropped at once, while the next pieces are being read.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from saxml.checkpoint.pax import Stored
from saxml.common import huge_pages, malloc
from saxml.models import registry
from saxml.models.config import ModelConfig
from saxml.models.params import Param, random_block, random_blocks, random_key
from saxml.models.views import View
from saxml.ops.backend import Backend
from saxml.ops.packing import Matrix

Progress = Callable[[int, int], None]
# Of all that is read, what may be in memory before it is packed; a piece goes alone.
_IN_FLIGHT_SHARE = 1 / 16


class Source(Protocol):
    """Declared weights by run-time name, read layer by layer."""

    def nbytes(self, name: str) -> int:
        """Bytes in memory of one layer."""

    def read(self, name: str, layer: int) -> Callable[[], Stored]:
        """Begins to read one layer (0 where there are none); what is returned waits for it."""


class RandomWeights:
    """A Source of what random_params makes of the same arguments."""

    def __init__(
        self, declared: Mapping[str, Param], key: jax.Array, dtype: jax.typing.DTypeLike
    ) -> None:
        self._declared = declared
        self._key = key
        self._dtype = jnp.dtype(dtype)

    def nbytes(self, name: str) -> int:
        """Bytes in memory of one layer."""
        return self._dtype.itemsize * math.prod(self._declared[name].shape)

    def read(self, name: str, layer: int) -> Callable[[], Stored]:
        """One layer, made by who asks for it."""
        param = self._declared[name]
        key = random_key(self._declared, self._key, name, layer)
        return functools.partial(self._made, param, key)

    def _made(self, param: Param, key: jax.Array) -> Stored:
        values = huge_pages.zeros(param.shape, self._dtype)
        first = 0
        for block_key, rows in random_blocks(param, key):
            values[first : first + rows] = _block(param, block_key, rows, self._dtype)
            first += rows
        return Stored(values)


_block = jax.jit(random_block, static_argnums=(0, 2, 3))


def packed(
    source: Source,
    config: ModelConfig,
    backend: Backend,
    dtype: jax.typing.DTypeLike,
    progress: Progress,
) -> dict[str, Any]:
    """Operands of a model's `forward`, packed for the CPU kernels; dtype: of what is not packed.

    Memory holds the operands and a sixteenth of what is read, or one piece of it. progress is told
    how many bytes of all have been packed.
    """
    family = registry.family(config)
    shapes = registry.operand_shapes(config)
    packing = backend.packing(family.products(config), shapes)
    declared, views = registry.parameters(config), family.views(config)
    kept = {
        name: huge_pages.zeros(shape.shape, dtype)
        for name, shape in shapes.items()
        if name not in packing.replaced
    }
    tasks = [_Task(p.names, p.layer, functools.partial(packing.put, p)) for p in packing.pieces]
    for name, whole in kept.items():
        layers = declared[views[name].source].layers
        for layer in range(max(layers, 1)):
            keep = functools.partial(_keep, whole[layer] if layers else whole, name)
            tasks.append(_Task((name,), layer, keep))
    with malloc.freed_memory_returned():
        _stream(source, views, tasks, progress)
    operands = {name: jax.device_put(whole, may_alias=True) for name, whole in kept.items()}
    return {**operands, **packing.operands()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    """What to do with some operands of one layer."""

    names: tuple[str, ...]
    layer: int
    finish: Callable[[Mapping[str, Matrix]], None]


def _keep(place: np.ndarray[Any, Any], name: str, parts: Mapping[str, Matrix]) -> None:
    place[...] = parts[name].values


def _stream(
    source: Source, views: Mapping[str, View], tasks: Sequence[_Task], progress: Progress
) -> None:
    """Reads ahead of those that finish tasks. The largest come first: what is in flight at the end,
    beside nearly all of the model, is small then."""
    sized = []
    for task in tasks:
        names = {views[name].source for name in task.names}
        sized.append((sum(map(source.nbytes, names)), names, task))
    total = sum(size for size, _, _ in sized)
    done = in_flight = 0
    pending: collections.deque[tuple[int, Future[None]]] = collections.deque()

    def wait() -> None:
        nonlocal done, in_flight
        size, future = pending.popleft()
        future.result()
        in_flight -= size
        done += size
        progress(done, total)

    with ThreadPoolExecutor() as pool:
        for size, names, task in sorted(sized, key=lambda one: one[0], reverse=True):
            while pending and in_flight + size > total * _IN_FLIGHT_SHARE:
                wait()
            readings = {name: source.read(name, task.layer) for name in names}
            pending.append((size, pool.submit(_finish, task, views, readings)))
            in_flight += size
        while pending:
            wait()


def _finish(
    task: _Task, views: Mapping[str, View], readings: Mapping[str, Callable[[], Stored]]
) -> None:
    stored = {name: wait() for name, wait in readings.items()}
    parts = {}
    for name in task.names:
        found = stored[views[name].source]
        scale = None if found.scale is None else views[name].of(found.scale)
        parts[name] = Matrix(views[name].of(found.values), scale)
    task.finish(parts)
