import math

from saxml.admin.backoff import Failures, wait_after


def test_waits_double_up_to_five_minutes() -> None:
    waits = [wait_after(n) for n in (0, 1, 2, 3, 4, 5, 6, 7, 1000)]
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]


def test_the_server_that_failed_waits_and_others_do_not() -> None:
    failures = Failures()
    failures.record("s1", "no memory", now=100.0)
    assert failures.barred("s1", 100.0) == "load failed on s1: no memory (next try in 10 s)"
    assert failures.barred("s2", 100.0) == ""
    assert failures.held(100.0) == ""
    assert failures.next_due(100.0) == 110.0
    assert failures.barred("s1", 110.0) == ""
    failures.record("s1", "no memory", now=110.0)
    assert failures.next_due(110.0) == 120.0, "the second failure in a row holds the whole model"
    assert failures.barred("s1", 129.0) != ""
    assert failures.barred("s1", 130.0) == ""


def test_a_model_that_fails_on_one_server_after_the_other_waits_as_a_whole() -> None:
    failures = Failures()
    failures.record("s1", "no such checkpoint", now=0.0)
    failures.record("s2", "no such checkpoint", now=0.0)
    assert failures.held(0.0) == (
        "load failed 2 times in a row (next try in 10 s): s1: no such checkpoint; "
        "s2: no such checkpoint"
    )
    assert failures.held(10.0) == ""
    failures.record("s3", "no such checkpoint", now=10.0)
    assert failures.held(29.0) != ""


def test_success_and_change_end_the_waiting() -> None:
    failures = Failures()
    failures.record("s1", "x", now=0.0)
    failures.record("s2", "x", now=0.0)
    failures.succeeded("s3")
    assert failures.held(0.0) == ""
    assert failures.barred("s1", 0.0) != "", "s1 is no better for it"
    failures.succeeded("s1")
    assert failures.barred("s1", 0.0) == ""
    failures.clear()
    assert failures.barred("s2", 0.0) == ""
    assert failures.next_due(0.0) == math.inf
