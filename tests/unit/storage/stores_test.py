"""Every store keeps the same promises."""

import concurrent.futures
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from saxml.common.errors import InvalidArgumentError
from saxml.storage.base import ConflictError, Store, Stored, open_store
from tests.integration import gcs


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with gcs.bucket("cells") as url:
        yield url


@pytest.fixture(params=["folder", "gs", "mem"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "root"))
    if request.param == "mem":
        return open_store(f"mem://{tmp_path.name}")
    request.getfixturevalue("bucket")
    return open_store(f"gs://cells/{tmp_path.name}")


def test_what_was_written_is_read_back(store: Store) -> None:
    assert store.read("sax/test/a") is None
    store.make_dir("sax/test")
    first = store.write("sax/test/a", b"one")
    assert store.read("sax/test/a") == Stored(b"one", first)
    second = store.write("sax/test/a", b"")
    assert second > first > 0
    assert store.read("sax/test/a") == Stored(b"", second)


def test_a_write_that_missed_another_one_is_refused(store: Store) -> None:
    store.make_dir("sax/test")
    first = store.write("sax/test/a", b"one", if_generation=0)
    with pytest.raises(ConflictError):
        store.write("sax/test/a", b"two", if_generation=0)
    second = store.write("sax/test/a", b"two", if_generation=first)
    with pytest.raises(ConflictError):
        store.write("sax/test/a", b"three", if_generation=first)
    assert store.read("sax/test/a") == Stored(b"two", second)


def test_no_update_is_lost_between_racing_writers(store: Store) -> None:
    store.make_dir("sax/test")

    def add_five(_: int) -> None:
        done = 0
        while done < 5:
            stored = store.read("sax/test/n")
            text = str(int(stored.data) + 1) if stored else "1"
            try:
                store.write(
                    "sax/test/n",
                    text.encode(),
                    if_generation=stored.generation if stored else 0,
                )
            except ConflictError:
                continue
            done += 1

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        list(threads.map(add_five, range(6)))
    stored = store.read("sax/test/n")
    assert stored is not None
    assert stored.data == b"30"


def _later(seconds: float, call: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


def test_a_watch_ends_when_the_object_is_written(store: Store) -> None:
    store.make_dir("sax/test")
    writes: list[int] = []
    for _ in range(2):  # it is made, it is replaced
        before = writes[-1] if writes else 0
        timer = _later(0.3, lambda: writes.append(store.write("sax/test/a", b"x")))
        start = time.monotonic()
        found = store.watch("sax/test/a", before, 60.0)
        assert 0.2 < time.monotonic() - start < 10
        timer.join()
        assert found == writes[-1] != before


def test_a_watch_that_knows_of_less_ends_at_once(store: Store) -> None:
    store.make_dir("sax/test")
    first = store.write("sax/test/a", b"x")
    start = time.monotonic()
    assert store.watch("sax/test/a", -1, 60.0) == first
    assert store.watch("sax/test/a", 0, 60.0) == first
    assert store.watch("sax/test/none", first, 60.0) == 0
    assert time.monotonic() - start < 10


def test_a_watch_ends_when_its_time_is_over_or_it_is_told_to(store: Store) -> None:
    store.make_dir("sax/test")
    first = store.write("sax/test/a", b"x")
    assert store.watch("sax/test/a", first, 0.0) == first
    start = time.monotonic()
    assert store.watch("sax/test/a", first, 0.4) == first
    assert 0.3 < time.monotonic() - start < 10
    stop = threading.Event()
    timer = _later(0.1, stop.set)
    assert store.watch("sax/test/a", first, 60.0, stop=stop) == first
    assert time.monotonic() - start < 20
    timer.join()


def test_directories_are_listed_level_by_level(store: Store) -> None:
    assert store.list("sax") == []
    assert not store.exists_dir("sax/test")
    store.make_dir("sax/test")
    store.make_dir("sax/test")
    store.make_dir("sax/empty")
    store.write("sax/test/a", b"")
    assert store.exists_dir("sax/test")
    assert store.list("sax") == ["empty/", "test/"]
    assert store.list("sax/test") == ["a"]
    assert store.list("") == ["sax/"]


def test_removed_directory_takes_what_is_in_it_and_nothing_else(store: Store) -> None:
    for cell in ("sax/test", "sax/test2"):
        store.make_dir(f"{cell}/below")
        store.make_dir(cell)
        store.write(f"{cell}/below/a", b"")
    store.remove_dir("sax/test")
    store.remove_dir("sax/test")
    assert not store.exists_dir("sax/test")
    assert store.read("sax/test/below/a") is None
    assert store.list("sax") == ["test2/"]
    assert store.read("sax/test2/below/a") is not None
    with pytest.raises(InvalidArgumentError, match="not a name below"):
        store.remove_dir("")


def test_names_stay_below_the_root(store: Store) -> None:
    for name in ("", "/etc/passwd", "a/../../b"):
        with pytest.raises(InvalidArgumentError, match="not a name below"):
            store.read(name)


def test_roots_are_told_apart() -> None:
    assert open_store("gs://b/x/").root == "/gcs/b/x"
    assert open_store("/gcs/b/x").root == "/gcs/b/x"
    assert open_store("gs://b").root == "/gcs/b"
    assert open_store("mem://a").root == "mem://a"
    assert open_store("/tmp/x/").root == "/tmp/x"
    with pytest.raises(InvalidArgumentError, match=r'^cannot keep files in "s3://b/x"; use a'):
        open_store("s3://b/x")
    with pytest.raises(InvalidArgumentError, match=r'^"gs://" names no bucket'):
        open_store("gs://")
    with pytest.raises(InvalidArgumentError, match="the root is empty"):
        open_store("")
