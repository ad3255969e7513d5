"""Objects with generations: what a cell keeps in a folder or a bucket.

    store = open_store("gs://bucket/sax-root")
    stored = store.read("sax/test/config.proto")
    generation = store.write(
        "sax/test/config.proto", data, if_generation=stored.generation if stored else 0
    )
    store.watch("sax/test/config.proto", generation, 60.0)      # until somebody else has written it

A generation is a number that changes with every write of an object. A write that names the
generation it has read fails with ConflictError when somebody else wrote in between, so no update
is ever lost.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from saxml.common.errors import AbortedError, InvalidArgumentError
from saxml.common.names import quote


class ConflictError(AbortedError):
    """The object is not at the generation the writer expects."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes of an object and the generation they belong to."""

    data: bytes
    generation: int


class Store(Protocol):
    """One root; names below it are relative and separated by "/".

    Errors: PermissionDeniedError and FailedPreconditionError need a person; UnavailableError means
    that the same call may succeed later. Calls may come from any thread.
    """

    @property
    def root(self) -> str:
        """The root as it is shown to users; a bucket is /gcs/bucket/prefix."""

    @property
    def poll_s(self) -> float:
        """How often to look whether an object has changed, when that is urgent but for ever."""

    def read(self, name: str) -> Stored | None:
        """The object, or None where there is none."""

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Replaces the object as a whole and durably; gives its new generation.

        if_generation: fail with ConflictError unless the object is at this generation (0: unless
        there is no object).
        """

    def watch(
        self,
        name: str,
        generation: int,
        timeout_s: float,
        *,
        stop: threading.Event | None = None,
    ) -> int:
        """Waits until the object is not at `generation` (0: until there is one), at most so long.

        Gives the generation that it is at in the end, 0 if there is none. stop: when set, the wait
        ends. Of several changes the last one may be the only one seen; errors are those of read().
        """

    def list(self, prefix: str) -> list[str]:
        """Names directly below the directory `prefix`, sorted; directories end with "/"."""

    def exists_dir(self, name: str) -> bool:
        """Whether make_dir(name) was done; "" is the root."""

    def make_dir(self, name: str) -> None:
        """Makes a directory, with its parents; no error if it is there."""

    def remove_dir(self, name: str) -> None:
        """Removes everything below the directory `name` and itself; no error if it is not there."""


def open_store(root: str, *, deadline_s: float | None = None) -> Store:
    """The store at `root`: a folder, gs://bucket/prefix (or /gcs/bucket/prefix), or mem://name.

    deadline_s: after which a call to a bucket that does not succeed fails with UnavailableError;
    default 30.

    mem://name is kept by this process alone, for tests. A folder may be missing: make_dir("")
    creates it. Nothing is contacted before the first read or write.
    """
    if root.startswith(("gs://", "/gcs/")):
        from saxml.storage import gcs

        bucket, _, prefix = root.removeprefix("gs://").removeprefix("/gcs/").partition("/")
        if not bucket:
            raise InvalidArgumentError(f"{quote(root)} names no bucket; write gs://bucket/prefix")
        if deadline_s is None:
            return gcs.GcsStore(bucket, prefix.strip("/"))
        return gcs.GcsStore(bucket, prefix.strip("/"), total_timeout_s=deadline_s)
    if root.startswith("mem://"):
        from saxml.storage import memory

        return memory.shared(root.removeprefix("mem://").strip("/"))
    if "://" in root:
        raise InvalidArgumentError(
            f"cannot keep files in {quote(root)}; use a folder or gs://bucket/prefix"
        )
    if not root:
        raise InvalidArgumentError("the root is empty; use a folder or gs://bucket/prefix")
    from saxml.storage import folder

    return folder.FolderStore(os.path.abspath(os.path.expanduser(root)))


def check_name(name: str) -> None:
    """Raises InvalidArgumentError for an object name that leaves its root."""
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise InvalidArgumentError(f"{quote(name)} is not a name below a store's root")


def poll(
    look: Callable[[], int],
    generation: int,
    timeout_s: float,
    stop: threading.Event | None,
    *,
    first_s: float,
    longest_s: float,
) -> int:
    """Store.watch() where nobody tells of changes: looks ever more seldom, from every first_s to
    every longest_s seconds, never in step with others."""
    end = time.monotonic() + timeout_s
    stop = stop or threading.Event()
    pause = first_s
    while (found := look()) == generation:
        left = end - time.monotonic()
        if left <= 0 or stop.wait(min(left, pause * random.uniform(0.8, 1.2))):
            break
        pause = min(longest_s, pause * 1.3)
    return found
