"""Arrays on huge pages, where this system has them."""

import mmap
import pathlib

import numpy as np
import pytest

from saxml.common import huge_pages

MIB = 1 << 20
SWITCH = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
needs_huge_pages = pytest.mark.skipif(
    not SWITCH.exists() or "[never]" in SWITCH.read_text(), reason="the system has no huge pages"
)


@pytest.mark.parametrize("shape", [(), (0, 5), (3, 5), (3, MIB), (7, MIB + 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_are_zero_aligned_and_writable(shape: tuple[int, ...], dtype: type) -> None:
    array = huge_pages.zeros(shape, dtype)
    assert array.shape == shape
    assert array.dtype == np.dtype(dtype)
    assert not array.size or array.ctypes.data % 64 == 0
    assert not array.any()
    array[...] = 1
    assert array.sum(dtype=np.int64) == array.size


@needs_huge_pages
def test_large_arrays_are_on_huge_pages_until_they_go() -> None:
    before = huge_pages.in_use()
    array = huge_pages.zeros((64, MIB), np.uint8)
    array[:] = 1
    if huge_pages.in_use() - before < 32 * MIB:
        pytest.skip("no huge pages are free")
    del array
    assert huge_pages.in_use() - before < 32 * MIB


@needs_huge_pages
def test_memory_in_use_is_moved_with_its_values() -> None:
    mapped = mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_NOHUGEPAGE)
    values = np.frombuffer(mapped, np.uint32)
    values[:] = np.arange(8 * MIB)
    before = huge_pages.in_use()
    if not huge_pages.collapse(values.ctypes.data, values.nbytes):
        pytest.skip("no huge pages are free, or the kernel is older than 6.1")
    assert huge_pages.in_use() - before >= 28 * MIB
    np.testing.assert_array_equal(values, np.arange(8 * MIB))


def test_what_is_smaller_than_a_huge_page_stays() -> None:
    values = np.zeros(1000)
    assert not huge_pages.collapse(values.ctypes.data, values.nbytes)
