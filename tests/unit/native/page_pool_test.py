import pytest

from saxml import native


def test_pages_are_counted_until_their_last_user_is_gone() -> None:
    pool = native.PagePool(2, 16)
    assert (pool.num_pages, pool.page_size, pool.free_pages) == (2, 16, 2)
    page = pool.allocate()
    pool.retain(page)
    assert (pool.ref_count(page), pool.free_pages) == (2, 1)
    pool.release(page)
    pool.release(page)
    assert (pool.ref_count(page), pool.free_pages) == (0, 2)
    pool.check_integrity()


def test_out_of_pages_is_an_error_of_its_own() -> None:
    pool = native.PagePool(1, 16)
    pool.allocate()
    with pytest.raises(native.OutOfPagesError, match="all 1 pages are in use"):
        pool.allocate()
    assert issubclass(native.OutOfPagesError, RuntimeError)


def test_wrong_pages_are_value_errors() -> None:
    pool = native.PagePool(2, 16)
    with pytest.raises(ValueError, match="page 0 is free and cannot be released"):
        pool.release(0)
    with pytest.raises(ValueError, match=r"page 2 is not one of the pool's 0\.\.1"):
        pool.ref_count(2)
    with pytest.raises(ValueError, match="page_size is 0"):
        native.PagePool(2, 0)
