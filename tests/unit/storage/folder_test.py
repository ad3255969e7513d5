import os
import pathlib
import subprocess
import sys

import pytest

from saxml.common.errors import (
    FailedPreconditionError,
    UnavailableError,
)
from saxml.storage.base import ConflictError
from saxml.storage.folder import FolderStore
from tests import permissions

_WRITE = """
import sys
from saxml.common.errors import PermissionDeniedError
from saxml.storage.folder import FolderStore
try:
    FolderStore(sys.argv[1]).write("d/a", b"")
except PermissionDeniedError as e:
    print(str(e).split(" for ")[0])
"""
_ADD = """
import sys
from saxml.storage.base import ConflictError
from saxml.storage.folder import FolderStore
store, done = FolderStore(sys.argv[1]), 0
while done < 40:
    stored = store.read("d/n")
    text = str(int(stored.data) + 1) if stored else "1"
    try:
        store.write("d/n", text.encode(), if_generation=stored.generation if stored else 0)
    except ConflictError:
        continue
    done += 1
"""


def test_no_update_is_lost_between_processes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "d").mkdir()
    workers = [subprocess.Popen([sys.executable, "-c", _ADD, str(tmp_path)]) for _ in range(3)]
    assert [w.wait() for w in workers] == [0, 0, 0]
    assert (tmp_path / "d" / "n").read_bytes() == b"120"


def test_files_are_the_plain_bytes_and_nothing_is_left_over(tmp_path: pathlib.Path) -> None:
    store = FolderStore(str(tmp_path))
    store.make_dir("sax/test")
    for _ in range(5):
        store.write("sax/test/config.proto", b"\x0a\x01x")
    assert (tmp_path / "sax/test/config.proto").read_bytes() == b"\x0a\x01x"
    assert oct((tmp_path / "sax/test/config.proto").stat().st_mode & 0o777) == "0o644"
    assert store.list("sax/test") == ["config.proto"]
    assert sorted(os.listdir(tmp_path / "sax/test")) == [".sax_lock", "config.proto"]


def test_the_generation_outlives_the_process(tmp_path: pathlib.Path) -> None:
    (tmp_path / "d").mkdir()
    generation = FolderStore(str(tmp_path)).write("d/a", b"1")
    again = FolderStore(str(tmp_path))
    assert again.write("d/a", b"2", if_generation=generation) > generation


def test_a_file_that_another_program_replaced_is_at_another_generation(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "d").mkdir()
    store = FolderStore(str(tmp_path))
    generation = store.write("d/a", b"1")
    (tmp_path / "d/other").write_bytes(b"theirs")
    os.rename(tmp_path / "d/other", tmp_path / "d/a")
    with pytest.raises(ConflictError, match="another process has written it"):
        store.write("d/a", b"2", if_generation=generation)
    assert (tmp_path / "d/a").read_bytes() == b"theirs"


def test_generations_rise_although_the_clock_goes_back(tmp_path: pathlib.Path) -> None:
    (tmp_path / "d").mkdir()
    store = FolderStore(str(tmp_path))
    store.write("d/a", b"1")
    future = 4_000_000_000 * 10**9
    os.utime(tmp_path / "d/a", ns=(future, future))
    assert store.write("d/a", b"2", if_generation=future) > future


def test_generations_rise_although_times_are_rounded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    exact = os.utime

    def coarse(target: int, ns: tuple[int, int]) -> None:
        seconds = ns[1] // 2_000_000_000 * 2_000_000_000
        exact(target, ns=(seconds, seconds))

    monkeypatch.setattr(os, "utime", coarse)
    store = FolderStore(str(tmp_path))
    generations = [store.write("d/a", b"x") for _ in range(4)]
    assert sorted(set(generations)) == generations


def test_errors_name_the_path_and_the_reason(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FolderStore(str(tmp_path / "file"))
    with pytest.raises(FailedPreconditionError, match=r"cannot create folder .*file/sax: Not a"):
        store.make_dir("sax")
    store = FolderStore(str(tmp_path))
    with pytest.raises(FailedPreconditionError, match=r"cannot write .*/d/a: No such file"):
        store.write("d/a", b"")
    with pytest.raises(UnavailableError, match="cannot read"):
        store.read("x" * 300)


def test_a_full_disk_leaves_the_old_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    store = FolderStore(str(tmp_path))
    store.write("d/a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match=r"cannot write .*/d/a: No space left on device"):
        store.write("d/a", b"new")
    assert (tmp_path / "d/a").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path / "d")) == [".sax_lock", "a"]


def test_a_folder_that_may_not_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "d").mkdir(mode=0o555)
    done = subprocess.run(
        permissions.command(sys.executable, "-c", _WRITE, str(tmp_path)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"cannot write {tmp_path}/d/a: permission denied\n", done.stderr
