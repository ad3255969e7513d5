"""A store in this process's memory, with the same rules as a bucket; for tests.

It can be made to fail as buckets do:

    def injector(call: str, name: str) -> Fault | None: ...     # "read", "write" or "watch"
    store = MemoryStore(injector=injector)
    store.deliver()                                             # writes that are late arrive now
"""

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from saxml.common.errors import UnavailableError
from saxml.storage.base import ConflictError, Stored, check_name

_shared: dict[str, "MemoryStore"] = {}
_shared_lock = threading.Lock()


class FaultKind(enum.Enum):
    """What goes wrong with a call."""

    # Nothing but time passes.
    DELAY = enum.auto()
    # UnavailableError, and nothing is done.
    ERROR = enum.auto()
    # UnavailableError, although it is done.
    LOST_REPLY = enum.auto()
    # A write: UnavailableError, and it is done at the next deliver() if its condition holds then.
    LATE = enum.auto()
    # A read or watch: what was there before the last write.
    STALE = enum.auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one call."""

    kind: FaultKind
    delay_s: float = 0.0


Injector = Callable[[str, str], Fault | None]


def shared(name: str) -> "MemoryStore":
    """The store that every mem://name of this process means."""
    with _shared_lock:
        return _shared.setdefault(name, MemoryStore(f"mem://{name}"))


class MemoryStore:
    """A Store that forgets everything with the process."""

    poll_s = 0.05

    def __init__(
        self,
        root: str = "mem://",
        *,
        injector: Injector | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """injector: asked before each read, write and watch. sleep: how delays are spent."""
        self.root = root
        self.injector = injector
        self._sleep = sleep
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._objects: dict[str, Stored] = {}
        self._before: dict[str, Stored | None] = {}
        self._late: list[tuple[str, bytes, int | None]] = []
        self._dirs: set[str] = set()
        self._last_generation = 0

    def read(self, name: str) -> Stored | None:
        """The object, or None where there is none."""
        check_name(name)
        fault = self._fault("read", name)
        with self._lock:
            if fault is FaultKind.STALE and name in self._before:
                return self._before[name]
            return self._objects.get(name)

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Replaces the object; see Store.write."""
        check_name(name)
        fault = self._fault("write", name)
        if fault is FaultKind.LATE:
            with self._lock:
                self._late.append((name, data, if_generation))
            raise UnavailableError(f"{self.root}/{name}: no answer to a write")
        generation = self._commit(name, data, if_generation)
        if fault is FaultKind.LOST_REPLY:
            raise UnavailableError(f"{self.root}/{name}: the reply to a write was lost")
        return generation

    def watch(
        self,
        name: str,
        generation: int,
        timeout_s: float,
        *,
        stop: threading.Event | None = None,
    ) -> int:
        """Is woken by writes; see Store.watch. A stale one does not know of the last write."""
        check_name(name)
        fault = self._fault("watch", name)
        end = time.monotonic() + timeout_s
        with self._changed:
            start = self._number(name)
            stale = fault is FaultKind.STALE and name in self._before
            former = self._before[name] if stale else None
            while True:
                found = self._number(name)
                if stale and found == start:
                    found = former.generation if former else 0
                left = end - time.monotonic()
                if found != generation or left <= 0 or (stop is not None and stop.is_set()):
                    return found
                # Whoever sets `stop` does not wake us.
                self._changed.wait(left if stop is None else min(left, self.poll_s))

    def deliver(self) -> None:
        """Does the writes that are late."""
        with self._lock:
            late, self._late = self._late, []
        for name, data, if_generation in late:
            try:
                self._commit(name, data, if_generation)
            except ConflictError:
                continue

    def list(self, prefix: str) -> list[str]:
        """Names directly below a directory; see Store.list."""
        below = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        found = set()
        with self._lock:
            for name in (*self._objects, *(d + "/" for d in self._dirs)):
                if name.startswith(below) and name != below:
                    child, slash, _ = name.removeprefix(below).partition("/")
                    found.add(child + slash)
        return sorted(found)

    def exists_dir(self, name: str) -> bool:
        """Whether make_dir(name) was done."""
        with self._lock:
            return not name.strip("/") or name.strip("/") in self._dirs

    def make_dir(self, name: str) -> None:
        """Makes a directory with its parents."""
        parts = name.strip("/").split("/")
        with self._lock:
            self._dirs.update("/".join(parts[: i + 1]) for i in range(len(parts)) if parts[i])

    def remove_dir(self, name: str) -> None:
        """Removes a directory with everything in it."""
        check_name(name)
        below = name.strip("/") + "/"
        with self._lock:
            self._objects = {n: o for n, o in self._objects.items() if not n.startswith(below)}
            self._dirs = {d for d in self._dirs if not f"{d}/".startswith(below)}
            self._changed.notify_all()

    def _number(self, name: str) -> int:
        stored = self._objects.get(name)
        return stored.generation if stored else 0

    def _fault(self, call: str, name: str) -> FaultKind | None:
        fault = self.injector(call, name) if self.injector is not None else None
        if fault is None:
            return None
        if fault.delay_s:
            self._sleep(fault.delay_s)
        kind = fault.kind
        lost = kind is FaultKind.LOST_REPLY and call != "write"
        if kind is FaultKind.ERROR or lost:
            raise UnavailableError(f"cannot {call} {self.root}/{name}: out of reach")
        return kind

    def _commit(self, name: str, data: bytes, if_generation: int | None) -> int:
        with self._lock:
            stored = self._objects.get(name)
            current = self._number(name)
            if if_generation is not None and if_generation != current:
                raise ConflictError(
                    f"{self.root}/{name} is at generation {current}, not {if_generation}"
                )
            self._last_generation += 1
            self._before[name] = stored
            self._objects[name] = Stored(bytes(data), self._last_generation)
            self._changed.notify_all()
            return self._last_generation
