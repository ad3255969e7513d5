"""Large arrays on huge pages, where the system has them: reading weights costs a step most of its
time, and with small pages up to a quarter of that time is spent on finding them.

array = zeros((12, 1 << 20), np.uint32)
collapse(pages.unsafe_buffer_pointer(), pages.nbytes)
"""

import contextlib
import ctypes
import functools
import math
import mmap
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_HUGE = 2 << 20
_LINE = 64  # what JAX wants of an array that it takes over without a copy
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25  # from Linux 6.1 on; the module mmap does not name it


def zeros(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that begin on a multiple of 64 bytes; those of 2 MiB and more are on huge pages as far
    as the system gives them, and their memory is given back at once when the array goes."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < _HUGE:
        whole = np.zeros(size + _LINE, np.uint8)
        first = -whole.ctypes.data % _LINE
    else:
        mapped = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if sys.platform == "linux":
            # A kernel without huge pages says EINVAL.
            with contextlib.suppress(OSError):
                mapped.madvise(_MADV_HUGEPAGE)
        whole = np.frombuffer(mapped, np.uint8)
        first = -whole.ctypes.data % _HUGE
    return whole[first : first + size].view(kind).reshape(shape)


def collapse(address: int, size: int) -> bool:
    """Moves memory that is in use to huge pages; False where the system cannot or has none left.

    Of the memory at `address`, only whole multiples of 2 MiB are moved.
    """
    first, last = -(-address // _HUGE) * _HUGE, (address + size) // _HUGE * _HUGE
    if sys.platform != "linux" or first >= last:
        return False
    advise = _libc().madvise
    where, length = ctypes.c_void_p(first), ctypes.c_size_t(last - first)
    return not advise(where, length, _MADV_HUGEPAGE) and not advise(where, length, _MADV_COLLAPSE)


def in_use() -> int:
    """Bytes of this process that are on huge pages; 0 where the system does not say."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            found = re.search(r"^AnonHugePages: +(\d+) kB$", file.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) << 10 if found else 0


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
