"""Reads a Pax checkpoint: finds it, checks it, restores arrays on the devices that hold them.

weights = restore("gs://bucket/lm", registry.parameters(config), dtype=jnp.bfloat16)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from saxml.checkpoint import layout, slices
from saxml.checkpoint.folder import Folder, translated
from saxml.checkpoint.scales import read_scales
from saxml.common import errors
from saxml.models.params import Param

ShardingOf = Callable[[str, Param], jax.sharding.Sharding | None]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint: `folder` is checkpoint_<step>, `arrays` what its metadata lists."""

    folder: Folder
    step: int
    arrays: Mapping[str, tuple[tuple[int, ...], str]]


def open_checkpoint(path: str) -> Checkpoint:
    """Opens `path`, which is a checkpoint_<step> or the folder above it (the newest whole step is
    taken).

    Raises NotFoundError when there is none; FailedPreconditionError when a commit marker or the
    metadata is missing.
    """
    folder = Folder(path)
    step = layout.parse_step(folder.name)
    if step is None:
        folder = _newest_step(folder)
        step = layout.parse_step(folder.name)
        assert step is not None
    elif not _exists(folder):
        raise errors.NotFoundError(f"no checkpoint at {path}: there is no such folder")
    where = f"{folder.path}/{layout.METADATA}"
    data = folder.read(layout.METADATA)
    if data is None:
        raise errors.FailedPreconditionError(
            f"checkpoint {folder.path} lacks {layout.METADATA}; copy the whole folder, or convert "
            "the model again"
        )
    for marker in layout.COMMIT_FILES:
        if folder.read(marker) is None:
            raise errors.FailedPreconditionError(
                f"checkpoint {folder.path} lacks {marker}: the copy or the conversion did not "
                "finish; start it again, or, if all of it is there, create that empty file"
            )
    return Checkpoint(folder, step, layout.parse_metadata(data, where))


def restore(
    path: str,
    params: Mapping[str, Param],
    *,
    dtype: Any = None,
    sharding_of: ShardingOf | None = None,
    progress: Progress | None = None,
) -> dict[str, jax.Array]:
    """Restores declared arrays by run-time name; layers come stacked in front.

    `dtype` converts (float32 on disk to bfloat16, say); None keeps the first layer's, or makes
    float32 of int8. Each process reads only what its devices hold: `sharding_of(name, param)` says
    how an array is laid out, None puts it on the default device. An axis called "vocab" that
    differs from the declaration is cut or padded with zeros. `progress(done, total)` counts bytes
    on disk, uncompressed.

    All arrays are checked before the first is read; host memory holds one device's part of one
    array and the chunks in flight. Raises as open_checkpoint does, NotFoundError for a missing
    array, FailedPreconditionError for a wrong shape or dtype, and what read_scales does.
    """
    checkpoint = open_checkpoint(path)
    stored = _open_arrays(checkpoint, params)
    _check_no_more_layers(checkpoint, params)
    sources = {
        name: _source(checkpoint, param, stored[name], dtype) for name, param in params.items()
    }
    total = sum(source.nbytes for source in sources.values())
    done = 0
    restored: dict[str, jax.Array] = {}
    for name, source in sources.items():
        sharding = sharding_of(name, params[name]) if sharding_of else None
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with translated(f"array {params[name].pax_name} in {checkpoint.folder.path}"):
            restored[name] = jax.make_array_from_callback(
                source.shape, sharding, source.read, dtype=source.dtype
            )
        done += source.nbytes
        if progress:
            progress(done, total)
    return restored


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """One layer of an array as it is stored. scale f32, of int8 values: with the axes of values,
    those that its product sums up of length 1."""

    values: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any] | None = None


class StoredWeights:
    """The arrays of a checkpoint, to be read layer by layer; all are checked at once. Raises what
    `restore` raises."""

    def __init__(self, path: str, params: Mapping[str, Param]) -> None:
        self._checkpoint = open_checkpoint(path)
        self._params = params
        stored = _open_arrays(self._checkpoint, params)
        _check_no_more_layers(self._checkpoint, params)
        self._sources = {
            name: _source(self._checkpoint, param, stored[name], _as_stored(stored[name]))
            for name, param in params.items()
        }

    def nbytes(self, name: str) -> int:
        """Bytes in memory of one layer."""
        return self._sources[name].layer_nbytes

    def read(self, name: str, layer: int) -> Callable[[], Stored]:
        """Begins to read one layer (0 where there are none): float32, or bfloat16 or int8 where it
        is so stored. What is returned waits for it."""
        what = f"array {_names(self._params[name])[layer]} in {self._checkpoint.folder.path}"
        with translated(what):
            reading = self._sources[name].layer(layer)

        def result() -> Stored:
            with translated(what):
                return Stored(reading.result(), self._sources[name].scales[layer])

        return result


def _as_stored(stores: list[Any]) -> Any:
    stored = stores[0].dtype.numpy_dtype
    return stored if stored == jnp.bfloat16 else np.dtype(np.float32)


def _exists(folder: Folder) -> bool:
    return folder.read(layout.COMMIT) is not None or bool(folder.list())


def _newest_step(parent: Folder) -> Folder:
    found = {name.split("/", 1)[0] for name in parent.list("checkpoint_")}
    steps = sorted((s, name) for name in found if (s := layout.parse_step(name)) is not None)
    if not steps:
        raise errors.NotFoundError(
            f"no checkpoint at {parent.path}: it is not a folder that holds checkpoint_<step>"
        )
    whole = [name for _, name in steps if parent.read(f"{name}/{layout.COMMIT}") is not None]
    return parent.child(whole[-1] if whole else steps[-1][1])


def _names(param: Param) -> list[str]:
    if not param.layers:
        return [param.pax_name]
    return [param.pax_name.format(layer=layer) for layer in range(param.layers)]


def _open_arrays(checkpoint: Checkpoint, params: Mapping[str, Param]) -> dict[str, list[Any]]:
    """TensorStores of each parameter, one a layer; opened in parallel."""
    context = ts.Context()
    opening = {
        name: [
            ts.open(
                {
                    "driver": "zarr",
                    "kvstore": checkpoint.folder.spec(layout.array_path(array)),
                },
                read=True,
                context=context,
            )
            for array in _names(param)
        ]
        for name, param in params.items()
    }
    return {
        name: [
            _opened(checkpoint, array, future)
            for array, future in zip(_names(params[name]), futures, strict=True)
        ]
        for name, futures in opening.items()
    }


def _opened(checkpoint: Checkpoint, array: str, future: Any) -> Any:
    with translated(f"array {array} in {checkpoint.folder.path}"):
        try:
            return future.result()
        except ValueError as error:
            if "NOT_FOUND" not in str(error):
                raise
            raise errors.NotFoundError(
                f"checkpoint {checkpoint.folder.path} has no array {layout.PREFIX}{array}; publish "
                "it with the model it was converted for, or convert the model again"
            ) from error


def _source(
    checkpoint: Checkpoint, param: Param, stores: list[Any], dtype: Any
) -> slices.StackedSource:
    first = stores[0]
    for name, store in zip(_names(param), stores, strict=True):
        _check(checkpoint, param, name, store)
        if store.shape != first.shape:
            raise errors.FailedPreconditionError(
                f"checkpoint {checkpoint.folder.path}: array {layout.PREFIX}{name} has shape "
                f"{list(store.shape)}, that of the first layer {list(first.shape)}; convert the "
                "model again"
            )
    scales = read_scales(checkpoint.folder, param, _names(param), stores)
    if dtype is None:
        dtype = np.float32 if first.dtype.name == layout.INT8 else first.dtype.numpy_dtype
    return slices.StackedSource(
        stores, param.stacked_shape, np.dtype(dtype), bool(param.layers), scales
    )


def _check(checkpoint: Checkpoint, param: Param, name: str, store: Any) -> None:
    where = f"checkpoint {checkpoint.folder.path}: array {layout.PREFIX}{name}"
    found, wanted = tuple(store.shape), param.shape
    fits = len(found) == len(wanted) and all(
        f == w or axis == "vocab" for f, w, axis in zip(found, wanted, param.axes, strict=True)
    )
    if not fits:
        raise errors.FailedPreconditionError(
            f"{where} has shape {list(found)}, wanted {list(wanted)}; publish it with the model it "
            "was converted for (AutoLM takes the sizes from the checkpoint)"
        )
    known = (*layout.DTYPES, layout.INT8)
    if store.dtype.name not in known:
        raise errors.FailedPreconditionError(
            f"{where} has dtype {store.dtype.name}, wanted one of {', '.join(known)}; convert the "
            "model again"
        )


def _check_no_more_layers(checkpoint: Checkpoint, params: Mapping[str, Param]) -> None:
    for param in params.values():
        if param.layers:
            extra = param.pax_name.format(layer=param.layers)
            if checkpoint.folder.read(f"{layout.array_path(extra)}/.zarray") is not None:
                raise errors.FailedPreconditionError(
                    f"checkpoint {checkpoint.folder.path} has array {layout.PREFIX}{extra}, but "
                    f"the model has {param.layers} layers; publish it with the model it was "
                    "converted for"
                )
            return
