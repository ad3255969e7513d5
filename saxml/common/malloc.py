"""What glibc's malloc does with large blocks that are freed. Other C libraries give them back."""

import contextlib
import ctypes
from collections.abc import Iterator

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Where its own adaptation ends.
_LARGEST = 32 << 20


def return_freed_memory() -> None:
    """Has blocks of 1 MiB and more given back at once. Else it keeps them in its heaps, where
    reading or converting weights piles up several times what it uses."""
    _mallopt(_M_MMAP_THRESHOLD, 1 << 20)


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """The same for a while. Afterwards it keeps blocks of up to 32 MiB, as it does by itself once
    it has seen such: steps that use the same blocks again and again are quicker then."""
    return_freed_memory()
    try:
        yield
    finally:
        _mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        _mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(parameter, value)
