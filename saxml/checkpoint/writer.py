"""Writes a Pax checkpoint, array by array, and makes it valid at the very end.

with CheckpointWriter("gs://bucket/lm") as writer:
    writer.array("lm.final_ln.scale", (4096,), "float32").put(scale)
    writer.file("sax_model.json", data)
    writer.commit()
"""

import collections
import contextlib
import itertools
import pathlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorstore as ts

from saxml.checkpoint import layout
from saxml.checkpoint.folder import Folder, remove_empty_folders, translated
from saxml.common import errors

_IN_FLIGHT_BYTES = 8 * layout.CHUNK_BYTES  # being compressed and written at once


class CheckpointWriter:
    """One checkpoint being written; readers refuse it until commit().

    Arrays are written while the next ones are read; `in_flight_bytes` bounds the copies that this
    needs. Left by an exception or without commit(), it removes what it wrote and nothing else.

    Raises AlreadyExistsError when the step's folder holds anything and `overwrite` is false. With
    `overwrite`, the old commit markers go first, then the arrays that the old metadata lists.
    """

    def __init__(
        self,
        parent: str,
        *,
        step: int = 0,
        overwrite: bool = False,
        chunk_bytes: int = layout.CHUNK_BYTES,
        in_flight_bytes: int = _IN_FLIGHT_BYTES,
        compression: str = layout.GZIP,
    ) -> None:
        self.folder = Folder(parent).child(layout.step_folder(step))
        self._step = step
        self._chunk_bytes = chunk_bytes
        self._compression = compression
        self._arrays: dict[str, tuple[Sequence[int], str]] = {}
        self._files: list[str] = []
        self._pending: collections.deque[tuple[str, int, Any]] = collections.deque()
        self._in_flight = 0
        self._in_flight_limit = in_flight_bytes
        self._committed = False
        present = self.folder.list()
        if present and not overwrite:
            finished = layout.COMMIT in present
            raise errors.AlreadyExistsError(
                f"{self.folder.path} already holds "
                + ("a checkpoint" if finished else "files, but no finished checkpoint")
                + "; name another folder or pass --overwrite"
            )
        if present:
            self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._committed:
            # The first error says what went wrong; a second one, from tidying up, would hide it.
            with contextlib.suppress(errors.SaxError):
                self._undo()

    def array(self, name: str, shape: Sequence[int], dtype: str) -> "ArrayWriter":
        """Creates an array; `name` has no mdl_vars prefix. All of it must then be put()."""
        if dtype not in (*layout.DTYPES, layout.INT8):
            raise errors.InvalidArgumentError(
                f"array {name} is {dtype}; a checkpoint holds {', '.join(layout.DTYPES)} and "
                f"{layout.INT8}"
            )
        if name in self._arrays:
            raise errors.AlreadyExistsError(f"array {name} is written twice")
        self._arrays[name] = (tuple(shape), dtype)
        return ArrayWriter(self, name, self._create(layout.array_path(name), shape, dtype))

    def file(self, name: str, data: bytes) -> None:
        """Writes a file beside the arrays."""
        self._files.append(name)
        self.folder.write(name, data)

    def commit(self) -> None:
        """Waits for everything, then writes step, metadata and, last, the commit markers."""
        self.drain()
        with translated(f"{self.folder.path}/{layout.STEP}"):
            self._create(layout.STEP, (), "int32").write(np.int32(self._step)).result()
        self.file(layout.METADATA, layout.make_metadata(self._arrays))
        for name in layout.COMMIT_FILES:
            self.file(name, b"")
        self._committed = True

    def limit_in_flight(self, size: int) -> None:
        """Lowers the bound on the bytes in flight."""
        self._in_flight_limit = min(self._in_flight_limit, size)

    def reserve(self, size: int) -> None:
        """Waits until `size` more bytes may be in flight; a larger chunk goes alone."""
        while self._pending and self._in_flight + size > self._in_flight_limit:
            self._wait_for_oldest()

    def submit(self, name: str, size: int, future: Any) -> None:
        """Takes over a write of `size` bytes that has begun."""
        self._pending.append((name, size, future))
        self._in_flight += size

    def drain(self) -> None:
        """Waits for all writes in flight."""
        while self._pending:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        name, size, future = self._pending.popleft()
        self._in_flight -= size
        with translated(f"array {name} in {self.folder.path}"):
            future.result()

    def _create(self, path: str, shape: Sequence[int], dtype: str) -> Any:
        with translated(f"{self.folder.path}/{path}"):
            spec = layout.zarr_spec(
                self.folder.spec(path), shape, dtype, self._chunk_bytes, self._compression
            )
            return ts.open(spec, create=True, delete_existing=True).result()

    def _clear(self) -> None:
        for name in reversed(layout.COMMIT_FILES):
            self.folder.delete(name)
        metadata = self.folder.read(layout.METADATA)
        if metadata is None:
            return
        where = f"{self.folder.path}/{layout.METADATA}"
        for name in layout.parse_metadata(metadata, where):
            self.folder.delete_array(layout.array_path(name))
        self.folder.delete(layout.METADATA)

    def _undo(self) -> None:
        for _, _, future in self._pending:
            future.exception()
        for name in reversed(self._files):
            self.folder.delete(name)
        for name in self._arrays:
            self.folder.delete_array(layout.array_path(name))
        self.folder.delete_array(layout.STEP)
        if self.folder.is_local:
            remove_empty_folders(pathlib.Path(self.folder.path))


class ArrayWriter:
    """One array being written."""

    def __init__(self, writer: CheckpointWriter, name: str, store: Any) -> None:
        self._writer = writer
        self._name = name
        self._store = store

    def put(self, values: np.ndarray[Any, Any], index: int | None = None) -> None:
        """Writes all of it, or, with `index`, one entry of the first axis.

        Strided views (a transpose, a memory map) are read chunk by chunk. When this returns, the
        values are no longer needed; they are compressed and written in the background.
        """
        target = self._store if index is None else self._store[index]
        if tuple(target.shape) != values.shape:
            raise errors.InvalidArgumentError(
                f"array {self._name}: found shape {list(values.shape)}, wanted {list(target.shape)}"
            )
        chunk = target.chunk_layout.write_chunk.shape if values.ndim else ()
        for place in _blocks(values.shape, chunk):
            part = values[place]
            self._writer.reserve(part.nbytes)
            future = target[place].write(part)
            self._writer.submit(self._name, part.nbytes, future)
            with translated(f"array {self._name}"):
                future.copy.result()


def _blocks(shape: Sequence[int], chunk: Sequence[int]) -> list[tuple[slice, ...]]:
    """Slices of all chunks, first axis slowest; one empty tuple for a scalar."""
    grid = [range(0, n, c) for n, c in zip(shape, chunk, strict=True)]
    return [
        tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, chunk, shape, strict=True))
        for start in itertools.product(*grid)
    ]
