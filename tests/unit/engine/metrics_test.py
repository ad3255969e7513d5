"""The numbers an engine keeps: histograms, and what the events of a request come to."""

import math

import pytest

from saxml.engine.metrics import EngineMetrics, Gauges, Histogram, Reason, Timeline


def test_histogram_counts_by_upper_bound_as_prometheus_does() -> None:
    histogram = Histogram([1, 2, 5])
    for value in (0.5, 1.0, 1.1, 5.0, 6.0):
        histogram.observe(value)
    histogram.observe(2.0, times=3)
    assert histogram.buckets() == [(1, 2), (2, 6), (5, 7), (math.inf, 8)]
    assert histogram.count == 8
    assert histogram.total == pytest.approx(0.5 + 1 + 1.1 + 5 + 6 + 6)


def test_a_generation_is_timed_from_event_to_event() -> None:
    metrics = EngineMetrics()
    line = Timeline(7, generates=True, now=10.0)
    metrics.submitted()
    metrics.admitted(line, 11.0)
    metrics.admitted(line, 12.0)  # again, after it was preempted
    for start, end in ((11.0, 13.0), (13.0, 13.5), (14.0, 15.0)):
        metrics.emitted(line, 2, end)
        metrics.stepped(3, 2, start, end)
    metrics.finished_with(line, Reason.LENGTH, 15.5)
    assert metrics.started == 1
    assert metrics.finished[Reason.LENGTH] == sum(metrics.finished.values()) == 1
    assert sum(metrics.without_token.values()) == 0
    assert (metrics.prompt_tokens, metrics.generation_tokens) == (7, 6)
    found = {
        name: (getattr(metrics, name).count, getattr(metrics, name).total)
        for name in (
            "queue_seconds",
            "prefill_seconds",
            "first_token_seconds",
            "between_tokens_seconds",
            "decode_seconds",
            "request_seconds",
            "step_seconds",
            "step_tokens",
            "step_rows",
        )
    }
    assert found == {
        "queue_seconds": (1, 1.0),
        "prefill_seconds": (1, 2.0),
        "first_token_seconds": (1, 3.0),
        "between_tokens_seconds": (2, 2.0),
        "decode_seconds": (1, 2.0),
        "request_seconds": (1, 5.5),
        "step_seconds": (3, 3.5),
        "step_tokens": (3, 9.0),
        "step_rows": (3, 6.0),
    }


def test_tokens_of_one_step_are_observed_each_with_its_own_gap() -> None:
    metrics = EngineMetrics()
    old, new, late = (Timeline(1, generates=True, now=0.0) for _ in range(3))
    for line, last in ((old, 1.0), (new, 1.0), (late, 1.5)):
        metrics.emitted(line, 1, last)
        metrics.stepped(1, 1, 0.0, last)
    for line in (old, late, new):
        metrics.emitted(line, 1, 3.0)
    metrics.stepped(3, 3, 2.0, 3.0)
    assert metrics.between_tokens_seconds.count == 3
    assert metrics.between_tokens_seconds.total == pytest.approx(2 + 1.5 + 2)


def test_a_score_has_a_first_result_and_no_tokens() -> None:
    metrics = EngineMetrics()
    line = Timeline(9, generates=False, now=0.0)
    metrics.admitted(line, 0.0)
    for end in (1.0, 2.0):
        metrics.emitted(line, 4, end)
        metrics.stepped(4, 1, end - 1, end)
    metrics.finished_with(line, Reason.DONE, 2.0)
    assert metrics.first_token_seconds.count == metrics.request_seconds.count == 1
    assert metrics.between_tokens_seconds.count == metrics.decode_seconds.count == 0
    assert (metrics.prompt_tokens, metrics.generation_tokens) == (9, 0)


def test_waste_is_what_used_pages_do_not_hold() -> None:
    assert Gauges(page_size=16, used_pages=10, used_tokens=152).waste == pytest.approx(0.05)
    assert Gauges(page_size=16, used_pages=0, used_tokens=0).waste == 0
    assert Gauges(page_size=16, used_pages=1, used_tokens=17).waste == 0


def test_a_request_that_got_nothing_is_told_apart() -> None:
    metrics = EngineMetrics()
    waiting = Timeline(3, generates=True, now=0.0)
    metrics.finished_with(waiting, Reason.DEADLINE, 5.0)
    begun = Timeline(3, generates=True, now=0.0)
    metrics.emitted(begun, 1, 1.0)
    metrics.finished_with(begun, Reason.CANCELLED, 2.0)
    assert metrics.without_token[Reason.DEADLINE] == 1
    assert metrics.without_token[Reason.CANCELLED] == 0
    assert metrics.finished[Reason.CANCELLED] == 1
    # Only what was answered took some time that says something.
    assert metrics.request_seconds.count == metrics.decode_seconds.count == 0
