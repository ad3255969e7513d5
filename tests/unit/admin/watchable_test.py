import pytest
from hypothesis import given
from hypothesis import strategies as st

from saxml.admin.watchable import WatchedSet
from saxml.proto import admin_pb2


def _add(value: str) -> admin_pb2.Mutation:
    return admin_pb2.Mutation(addition=value)


def _del(value: str) -> admin_pb2.Mutation:
    return admin_pb2.Mutation(deletion=value)


def test_a_fresh_set_has_nothing_to_tell() -> None:
    assert WatchedSet().read(0) is None


def test_what_watchers_are_told_as_changes_pile_up() -> None:
    watched = WatchedSet()
    assert watched.update({"A"})
    # One change: told as a change, not as a full set.
    first = admin_pb2.WatchResult(next_seqno=1, changelog=[_add("A")])
    assert watched.read(0) == first
    assert watched.read(1) is None
    assert watched.read(7) == admin_pb2.WatchResult(next_seqno=1)
    # Two: the older half is folded, so that a new watcher is given a full set.
    assert watched.update({"A", "B"})
    assert watched.read(0) == admin_pb2.WatchResult(
        next_seqno=2, has_fullset=True, values=["A"], changelog=[_add("B")]
    )
    assert watched.read(1) == admin_pb2.WatchResult(next_seqno=2, changelog=[_add("B")])
    assert watched.read(2) is None
    # Three.
    assert watched.update({"A"})
    assert watched.read(0) == admin_pb2.WatchResult(
        next_seqno=3, has_fullset=True, values=["A"], changelog=[_add("B"), _del("B")]
    )
    assert watched.read(2) == admin_pb2.WatchResult(next_seqno=3, changelog=[_del("B")])
    assert watched.values == {"A"}


def test_deletions_are_told_before_additions() -> None:
    watched = WatchedSet()
    watched.update({"A"})
    watched.update({"B"})
    result = watched.read(1)
    assert result is not None
    assert list(result.changelog) == [_del("A"), _add("B")]


def test_no_change_is_no_change() -> None:
    watched = WatchedSet()
    watched.update({"A", "B"})
    assert not watched.update({"B", "A"})
    assert watched.seqno == 2


def test_a_successor_gives_watchers_of_its_predecessor_a_full_set() -> None:
    watched = WatchedSet(first_seqno=4)
    assert watched.read(3) == admin_pb2.WatchResult(next_seqno=4, has_fullset=True)
    assert watched.read(0) == admin_pb2.WatchResult(next_seqno=4, has_fullset=True)
    assert watched.read(4) is None


class Watcher:
    """What a client does with the answers."""

    def __init__(self) -> None:
        self.seqno, self.values = 0, set[str]()

    def read(self, watched: WatchedSet) -> None:
        result = watched.read(self.seqno)
        if result is None:
            return
        if result.has_fullset:
            self.values = set(result.values)
        for change in result.changelog:
            if change.addition:
                self.values.add(change.addition)
            else:
                self.values.remove(change.deletion)
        self.seqno = result.next_seqno


@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.sets(st.integers(0, 2))), max_size=60)
)
def test_watchers_know_the_set_however_seldom_they_look(
    history: list[tuple[set[str], set[int]]],
) -> None:
    watched, watchers = WatchedSet(), [Watcher() for _ in range(3)]
    for values, looking in history:
        watched.update(values)
        watched.check_integrity()
        for i in looking:
            watchers[i].read(watched)
            assert watchers[i].values == values
    for watcher in watchers:
        watcher.read(watched)
        assert watcher.values == watched.values


def test_memory_does_not_grow_with_history() -> None:
    watched = WatchedSet()
    for i in range(1000):
        watched.update({"A", "B"} if i % 2 else {"A"})
    result = watched.read(0)
    assert result is not None
    assert len(result.changelog) <= 6


def test_integrity_is_checked() -> None:
    watched = WatchedSet()
    watched.update({"A"})
    watched._values.add("X")
    with pytest.raises(AssertionError):
        watched.check_integrity()
