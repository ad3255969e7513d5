"""Read-only memory map of a file of tensors, with bounds checked and pages given back."""

import mmap
import os
from typing import Any

import numpy as np

from saxml.common import errors


class MappedFile:
    """Bytes of one file. Raises NotFoundError when it is not there."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise errors.NotFoundError(f"no file {path}") from error
        except ValueError as error:
            raise errors.InvalidArgumentError(f"{path} is empty") from error
        except OSError as error:
            raise errors.FailedPreconditionError(f"{path}: {error.strerror}") from error

    def bytes(self, start: int, length: int, what: str) -> bytes:
        """A copy of a range; `what` names it when it is not inside the file."""
        self._check(start, length, what)
        return self._map[start : start + length]

    def array(
        self, start: int, count: int, dtype: np.dtype[Any], what: str
    ) -> np.ndarray[Any, Any]:
        """A one-dimensional view of a range."""
        self._check(start, count * dtype.itemsize, what)
        raw = np.frombuffer(self._map, np.uint8, count * dtype.itemsize, start)
        return raw.view(dtype)

    def release(self, start: int, length: int) -> None:
        """Lets the system take back the pages that lie wholly in a range."""
        page = mmap.PAGESIZE
        first = -(-start // page) * page
        last = (start + length) // page * page
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _check(self, start: int, length: int, what: str) -> None:
        if start < 0 or length < 0 or start + length > self.size:
            raise errors.InvalidArgumentError(
                f"{self.path}: {what} is said to lie at {start}..{start + length}, but the file "
                f"has {self.size} bytes; it is cut short or damaged, fetch it again"
            )
