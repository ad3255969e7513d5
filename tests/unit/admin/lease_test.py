"""What to do about a lease, decided from plain data and a clock."""

import pytest

from saxml.admin.lease import (
    Action,
    Conflict,
    Failed,
    Lease,
    Outcome,
    Read,
    Seen,
    Wait,
    Write,
    execute,
    plan,
)
from saxml.common.errors import FailedPreconditionError, UnavailableError
from saxml.storage.lease_record import Record
from saxml.storage.memory import MemoryStore

MINE, OTHER = "10.0.0.1:10000", "10.0.0.2:10000"
AWAY = Failed(UnavailableError("out of reach"))


def _lease() -> Lease:
    return Lease(MINE, "me", ttl_s=10.0, poll_s=0.5)


def _record(term: int, **changes: object) -> Record:
    fields = {"holder": OTHER, "server_id": "other", "term": term, "ttl_s": 10.0, **changes}
    return Record(**fields)  # type: ignore[arg-type]


def _mine(term: int) -> Record:
    return Record(MINE, "me", term, 10.0)


def _note(lease: Lease, outcome: Outcome, at: float, took: float = 0.0) -> Action:
    """Does what is planned at that time, with that outcome; gives the next plan."""
    action = plan(lease, at)
    assert not isinstance(action, Wait)
    lease.note(action, outcome, at, at + took)
    return plan(lease, at + took)


def _standby(term: int = 3, at: float = 0.0) -> Lease:
    lease = _lease()
    _note(lease, Seen(_record(term), 7), at)
    return lease


def _leader(at: float = 0.0) -> Lease:
    lease = _lease()
    _note(lease, Seen(None, 0), at)
    _note(lease, Seen(_mine(1), 7), at)
    assert lease.leads(at)
    return lease


def test_the_first_thing_is_to_look() -> None:
    assert plan(_lease(), 0.0) == Read()


def test_a_lease_that_is_not_there_is_taken() -> None:
    assert _note(_lease(), Seen(None, 0), 0.0) == Write(_mine(1), 0)


def test_a_lease_that_was_given_back_is_taken_with_the_next_term() -> None:
    free = Seen(_record(3, released=True), 7)
    assert _note(_lease(), free, 0.0) == Write(_mine(4), 7)


def test_the_former_process_at_the_own_address_is_followed_at_once() -> None:
    former = _record(3, holder=MINE)
    lease = _lease()
    assert _note(lease, Seen(former, 7), 0.0) == Write(_mine(4), 7)
    # But only once: two processes that think they have one address do not take turns.
    assert _note(lease, Conflict(), 0.0) == Read()
    assert _note(lease, Seen(former, 8), 0.0) == Wait(0.5)


def test_a_standby_waits_for_the_time_to_live_on_its_own_clock() -> None:
    lease = _standby(at=100.0)
    now = 100.0
    while now < 109.9:
        assert plan(lease, now) == Wait(now + 0.5)
        now += 0.5
        if now < 110.0:
            _note(lease, Seen(_record(3), 7), now)
    assert plan(lease, 110.0) == Write(_mine(4), 7)


def test_the_time_counts_from_after_the_reply() -> None:
    lease = _lease()
    _note(lease, Seen(_record(3), 7), 0.0, took=4.0)
    lease.seen_at = 13.9
    assert isinstance(plan(lease, 13.9), Wait)
    assert isinstance(plan(lease, 14.0), Write)


def test_a_renewal_starts_the_wait_anew() -> None:
    lease = _standby()
    _note(lease, Seen(_record(3), 8), 9.0)
    assert isinstance(plan(lease, 9.1), Wait)
    _note(lease, Seen(_record(3), 8), 18.9)
    assert isinstance(plan(lease, 18.95), Wait)
    assert isinstance(plan(lease, 19.0), Write)


def test_the_time_to_live_is_the_holders() -> None:
    lease = _lease()
    _note(lease, Seen(_record(3, ttl_s=2.0), 7), 0.0)
    assert isinstance(plan(lease, 2.0), Write)


def test_who_comes_second_looks_again() -> None:
    lease = _standby()
    assert _note(lease, Conflict(), 10.0) == Read()
    assert _note(lease, Seen(_record(4), 8), 10.0) == Wait(10.5)
    assert not lease.leads(10.0)


def test_a_holder_renews_each_third() -> None:
    lease = _leader()
    assert plan(lease, 0.0) == Wait(10 * (1 / 3))
    assert plan(lease, 3.4) == Write(_mine(1), 7)
    assert _note(lease, Seen(_mine(1), 8), 3.4) == Wait(3.4 + 10 * (1 / 3))
    assert (lease.term, lease.renewals) == (1, 1)


def test_a_holder_stops_before_anybody_may_follow_counting_from_before_the_renewal() -> None:
    lease = _leader()
    _note(lease, Seen(_mine(1), 8), 3.4, took=3.0)
    assert lease.leads(11.39)
    assert not lease.leads(11.4)
    # Even if its clock is 10 % slow and the other one 10 % fast.
    assert (11.4 - 3.4) / 0.9 < 10.0 / 1.1


def test_a_renewal_that_comes_too_late_makes_nobody_lead() -> None:
    lease = _leader()
    _note(lease, Seen(_mine(1), 8), 3.4, took=9.0)
    assert not lease.leads(12.4)
    # Nobody has followed, so it starts over, with a term of its own.
    assert plan(lease, 12.4) == Write(_mine(2), 8)


def test_a_holder_that_is_cut_off_leads_until_its_time_is_over() -> None:
    lease = _leader()
    assert _note(lease, AWAY, 3.4) == Wait(3.9)
    now = 3.9
    while now < 8.0:
        assert lease.leads(now)
        _note(lease, AWAY, now)
        now += 0.5
    assert not lease.leads(8.0)
    assert lease.failed_renewals == 1


def test_a_holder_whose_renewal_was_refused_looks_and_steps_down() -> None:
    lease = _leader()
    assert _note(lease, Conflict(), 3.4) == Read()
    assert _note(lease, Seen(_record(2), 9), 3.4) == Wait(3.9)
    assert not lease.leads(3.4)
    assert lease.floor == 2


def test_a_renewal_whose_reply_was_lost_is_found_and_made_again() -> None:
    lease = _leader()
    _note(lease, AWAY, 3.4)
    assert _note(lease, Seen(_mine(1), 8), 3.9) == Write(_mine(1), 8)
    assert lease.valid_until == 8.0, "when it was written is not known"
    assert lease.leads(3.9)


def test_a_lease_that_somebody_removed_is_lost_and_its_term_is_not_used_again() -> None:
    lease = _leader()
    _note(lease, Conflict(), 3.4)
    assert _note(lease, Seen(None, 0), 3.4) == Write(_mine(2), 0)
    assert not lease.leads(3.4)


def test_a_term_that_is_in_use_elsewhere_is_outgrown() -> None:
    lease = _leader()
    lease.floor = 5
    assert not lease.leads(0.0)
    assert plan(lease, 0.0) == Write(_mine(6), 7)


def test_giving_back_writes_a_tombstone_and_takes_nothing() -> None:
    lease = _leader()
    lease.abstain_until = 20.0
    assert not lease.leads(1.0)
    tombstone = Record(MINE, "me", 1, 10.0, released=True)
    assert plan(lease, 1.0) == Write(tombstone, 7)
    assert isinstance(_note(lease, Seen(tombstone, 8), 1.0), Wait)
    assert plan(lease, 19.0) == Read()
    assert _note(lease, Seen(tombstone, 8), 20.0) == Write(_mine(2), 8)


def test_a_record_is_json_that_may_grow() -> None:
    record = _record(3)
    assert Record.from_bytes(record.to_bytes()) == record
    assert Record.from_bytes(record.to_bytes().replace(b"{", b'{"new": 1, ', 1)) == record


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"holder": "a", "server_id": "b", "term": 0, "ttl_s": 1}',
        b'{"holder": "a", "server_id": "b", "term": 1, "ttl_s": -1}',
        b'{"holder": "a", "server_id": "b", "term": 1e999, "ttl_s": 1}',
        b'{"holder": "a", "server_id": "b", "term": 1, "ttl_s": NaN}',
    ],
)
def test_what_is_no_lease_is_left_alone(data: bytes) -> None:
    store = MemoryStore("mem://lease")
    store.write("l", data)
    outcome = execute(store, "l", Read())
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, FailedPreconditionError)
    assert "mem://lease/l is not a lease of a SAX cell" in str(outcome.error)


def test_execute_tells_what_came_of_it() -> None:
    store = MemoryStore("mem://lease")
    assert execute(store, "l", Read()) == Seen(None, 0)
    written = execute(store, "l", Write(_mine(1), 0))
    assert written == Seen(_mine(1), 1)
    assert execute(store, "l", Write(_mine(1), 0)) == Conflict()
    assert execute(store, "l", Read()) == written
