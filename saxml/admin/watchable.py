"""A set of addresses whose changes can be followed by number.

    watched = WatchedSet()
    watched.update({"a:1", "b:1"})
    watched.read(0)      # what a watcher that has seen nothing must know
    watched.read(2)      # None: nothing new yet, wait for the next change

A watcher tells the number of changes it knows of, its seqno, and is told the rest: as changes where
they are still kept, else as a full set. Old changes are folded into the full set as they pile up.
"""

from collections.abc import Iterable

from saxml.proto import admin_pb2


class WatchedSet:
    """The set, its last changes and their numbers; `first_seqno` is the number before the first."""

    def __init__(self, first_seqno: int = 0) -> None:
        self._base: set[str] = set()
        self._base_seqno = first_seqno
        self._log: list[admin_pb2.Mutation] = []
        self._values: set[str] = set()

    @property
    def seqno(self) -> int:
        """The number of the last change."""
        return self._base_seqno + len(self._log)

    @property
    def values(self) -> frozenset[str]:
        """The set as it is now."""
        return frozenset(self._values)

    def update(self, values: Iterable[str]) -> bool:
        """Makes the set equal to `values`, deletions first; tells whether anything changed."""
        wanted = set(values)
        gone, new = sorted(self._values - wanted), sorted(wanted - self._values)
        for value in gone:
            self._append(admin_pb2.Mutation(deletion=value))
        for value in new:
            self._append(admin_pb2.Mutation(addition=value))
        self._values = wanted
        return bool(gone or new)

    def read(self, seqno: int) -> admin_pb2.WatchResult | None:
        """What a watcher that knows of the changes up to `seqno` must be told; None: nothing."""
        if seqno == self.seqno:
            return None
        result = admin_pb2.WatchResult(next_seqno=self.seqno)
        if seqno < self._base_seqno:
            result.has_fullset = True
            result.values.extend(sorted(self._base))
            result.changelog.extend(self._log)
        elif seqno < self.seqno:
            result.changelog.extend(self._log[seqno - self._base_seqno :])
        return result

    def check_integrity(self) -> None:
        """Asserts that the full set and the changes lead to the values."""
        values = set(self._base)
        for change in self._log:
            _apply(change, values)
        assert values == self._values, (values, self._values)

    def _append(self, change: admin_pb2.Mutation) -> None:
        self._log.append(change)
        if len(self._log) >= 2 and len(self._log) > 2 * len(self._base):
            half = len(self._log) // 2
            for old in self._log[:half]:
                _apply(old, self._base)
            del self._log[:half]
            self._base_seqno += half


def _apply(change: admin_pb2.Mutation, values: set[str]) -> None:
    if change.WhichOneof("kind") == "addition":
        values.add(change.addition)
    else:
        values.discard(change.deletion)
