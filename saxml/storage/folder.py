"""A folder of plain files, safe between processes.

The generation of a file is its modification time in nanoseconds, which every write moves forward,
so it lives in the file system, survives restarts and needs no second file: other programs can read
and write the same files. A lock file in each directory orders our writers; a write is a new file
renamed over the old one, with both the file and the directory synced.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator

from saxml.common.errors import FailedPreconditionError, PermissionDeniedError, UnavailableError
from saxml.storage.base import ConflictError, Stored, check_name, poll

LOCK_NAME = ".sax_lock"


class FolderStore:
    """A Store below `root`, an absolute path."""

    poll_s = 0.25

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, name: str) -> Stored | None:
        """The file, or None where there is none."""
        path = self._path(name)
        with _explained("read", path):
            try:
                with open(path, "rb") as file:
                    # One open file: bytes and time belong together whatever is renamed meanwhile.
                    return Stored(file.read(), os.fstat(file.fileno()).st_mtime_ns)
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Replaces the file; see Store.write. Its directory must exist."""
        path = self._path(name)
        with _explained("write", path), _locked(os.path.dirname(path)):
            current = _generation(path)
            if if_generation is not None and if_generation != current:
                raise ConflictError(
                    f"{path} is at generation {current}, not {if_generation}: "
                    "another process has written it"
                )
            return _replace(path, data, current)

    def watch(
        self,
        name: str,
        generation: int,
        timeout_s: float,
        *,
        stop: threading.Event | None = None,
    ) -> int:
        """Looks at the file's time until it changes; see Store.watch."""
        path = self._path(name)

        def look() -> int:
            with _explained("watch", path):
                return _generation(path)

        return poll(look, generation, timeout_s, stop, first_s=0.05, longest_s=self.poll_s)

    def list(self, prefix: str) -> list[str]:
        """Visible entries of a directory; see Store.list."""
        path = os.path.join(self.root, prefix)
        with _explained("list", path):
            try:
                with os.scandir(path) as entries:
                    return sorted(
                        e.name + "/" if e.is_dir() else e.name
                        for e in entries
                        if not e.name.startswith(".")
                    )
            except FileNotFoundError:
                return []

    def exists_dir(self, name: str) -> bool:
        """Whether the directory is there."""
        return os.path.isdir(os.path.join(self.root, name))

    def make_dir(self, name: str) -> None:
        """Makes a directory with its parents."""
        path = os.path.join(self.root, name)
        with _explained("create folder", path):
            os.makedirs(path, mode=0o777, exist_ok=True)

    def remove_dir(self, name: str) -> None:
        """Removes a directory with everything in it."""
        path = self._path(name)
        with _explained("remove folder", path):
            if os.path.isdir(path):
                shutil.rmtree(path)

    def _path(self, name: str) -> str:
        check_name(name)
        return os.path.join(self.root, name)


def _generation(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def _replace(path: str, data: bytes, current: int) -> int:
    temporary = f"{path}.{time.time_ns()}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            generation = _stamp(file.fileno(), current)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return generation


def _stamp(descriptor: int, current: int) -> int:
    """Sets a modification time past `current` and gives what the file system made of it."""
    wanted = max(time.time_ns(), current + 1)
    # File systems round times down, some to two seconds: step on until the time has moved.
    for step in (0, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000, 4_000_000_000):
        os.utime(descriptor, ns=(wanted + step, wanted + step))
        if (generation := os.fstat(descriptor).st_mtime_ns) > current:
            return generation
    raise OSError("the file system does not keep modification times")


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    descriptor = os.open(os.path.join(directory, LOCK_NAME), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(what: str, path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermissionDeniedError(
            f"cannot {what} {path}: permission denied for user id {os.geteuid()}"
        ) from error
    except (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise FailedPreconditionError(f"cannot {what} {path}: {error.strerror}") from error
    except OSError as error:
        raise UnavailableError(f"cannot {what} {path}: {error.strerror or error}") from error
