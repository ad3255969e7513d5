"""Reads any part of an array that is stored as one zarr array a layer."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from saxml.common import huge_pages

_IN_FLIGHT_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class StackedSource:
    """`stores` are the layers (one store when not `stacked`); `shape` is what callers see, layers
    in front. Rows beyond a store's end read as zeros, rows beyond `shape` are not read. `scales`
    are those of stores of int8, with as many axes, None of others; `dtype` is of what is no int8.
    """

    stores: list[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stacked: bool
    scales: list[np.ndarray[Any, Any] | None]

    @property
    def nbytes(self) -> int:
        """Bytes on disk, uncompressed."""
        sizes = (math.prod(s.shape) * s.dtype.numpy_dtype.itemsize for s in self.stores)
        return int(sum(sizes))

    @property
    def layer_nbytes(self) -> int:
        """Bytes of what `layer` reads of the first."""
        shape = self.shape[1:] if self.stacked else self.shape
        return math.prod(shape) * self._layer_dtype(0).itemsize

    def layer(self, place: int) -> "Reading":
        """Begins to read one layer, all of it, int8 as it is; without layers, place is 0."""
        shape = self.shape[1:] if self.stacked else self.shape
        part = huge_pages.zeros(shape, self._layer_dtype(place))
        future = self._begin(place, part, [(0, n) for n in part.shape])
        return Reading(part, [] if future is None else [future])

    def read(self, index: tuple[slice, ...] | None) -> np.ndarray[Any, Any]:
        """The part at `index`, one slice an axis, None for all, in `dtype`; layers are read in
        parallel."""
        index = index or tuple(slice(n) for n in self.shape)
        spans = [s.indices(n)[:2] for s, n in zip(index, self.shape, strict=True)]
        part: np.ndarray[Any, Any] = np.zeros([stop - start for start, stop in spans], self.dtype)
        layers = range(*spans[0]) if self.stacked else [0]
        inner = spans[1:] if self.stacked else spans
        pending: collections.deque[Any] = collections.deque()
        per_layer = max(part.nbytes // max(len(layers), 1), 1)
        for place, layer in enumerate(layers):
            future = self._begin(layer, part[place] if self.stacked else part, inner)
            if future is not None:
                pending.append(future)
            while len(pending) * per_layer > _IN_FLIGHT_BYTES and len(pending) > 1:
                pending.popleft().result()
        for future in pending:
            future.result()
        for place, layer in enumerate(layers):
            if (scale := self.scales[layer]) is not None:
                sizes = zip(inner, scale.shape, strict=True)
                own = tuple(slice(*span) if n > 1 else slice(None) for span, n in sizes)
                target = part[place] if self.stacked else part
                target[...] = target * scale[own]
        return part

    def _layer_dtype(self, layer: int) -> np.dtype[Any]:
        return self.dtype if self.scales[layer] is None else np.dtype(np.int8)

    def _begin(
        self, layer: int, part: np.ndarray[Any, Any], spans: Sequence[tuple[int, int]]
    ) -> Any:
        """Begins to read `spans` of a layer into `part`; None where the store has nothing there."""
        store = self.stores[layer]
        stops = [min(stop, n) for (_, stop), n in zip(spans, store.shape, strict=True)]
        starts = [start for start, _ in spans]
        if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
            return None
        target = part[tuple(slice(b - a) for a, b in zip(starts, stops, strict=True))]
        source = store[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]
        source = ts.cast(source, ts.dtype(part.dtype))
        return ts.array(target).write(source[ts.d[:].translate_to[0]])


class Reading:
    """An array that is being read."""

    def __init__(self, part: np.ndarray[Any, Any], futures: Sequence[Any]) -> None:
        self._part = part
        self._futures = futures

    def result(self) -> np.ndarray[Any, Any]:
        """The array, when it is whole."""
        for future in self._futures:
            future.result()
        return self._part
