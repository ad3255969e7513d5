"""A store in this process's memory, with the same rules as a bucket; for tests."""

import threading

from saxml.storage.base import ConflictError, Stored, check_name

_shared: dict[str, "MemoryStore"] = {}
_shared_lock = threading.Lock()


def shared(name: str) -> "MemoryStore":
    """The store that every mem://name of this process means."""
    with _shared_lock:
        return _shared.setdefault(name, MemoryStore(f"mem://{name}"))


class MemoryStore:
    """A Store that forgets everything with the process."""

    def __init__(self, root: str = "mem://") -> None:
        self.root = root
        self._lock = threading.Lock()
        self._objects: dict[str, Stored] = {}
        self._dirs: set[str] = set()
        self._last_generation = 0

    def read(self, name: str) -> Stored | None:
        """The object, or None where there is none."""
        check_name(name)
        with self._lock:
            return self._objects.get(name)

    def write(self, name: str, data: bytes, *, if_generation: int | None = None) -> int:
        """Replaces the object; see Store.write."""
        check_name(name)
        with self._lock:
            stored = self._objects.get(name)
            current = stored.generation if stored else 0
            if if_generation is not None and if_generation != current:
                raise ConflictError(
                    f"{self.root}/{name} is at generation {current}, not {if_generation}"
                )
            self._last_generation += 1
            self._objects[name] = Stored(bytes(data), self._last_generation)
            return self._last_generation

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
