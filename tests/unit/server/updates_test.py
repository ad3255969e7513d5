"""Steps of a request on their way to its owner."""

import threading

import numpy as np

from saxml.engine.decoders import Hypothesis
from saxml.server.updates import Updates


def hypotheses(step: int) -> list[Hypothesis]:
    return [Hypothesis(np.full(step, 7, np.int32), float(-step))]


def drain(updates: Updates) -> list[tuple[int, int]]:
    """(step, tokens) of what is got until the end."""
    found = []
    while (update := updates.get()) is not None:
        found.append((update[0], len(update[1][0].tokens)))
    return found


def test_each_step_is_got_in_order() -> None:
    updates = Updates(4)
    updates.put(hypotheses(1))
    updates.put(hypotheses(2))
    assert updates.get() is not None
    updates.put(hypotheses(3))
    updates.end()
    assert drain(updates) == [(2, 2), (3, 3)]
    assert updates.get() is None


def test_who_lags_behind_misses_the_oldest() -> None:
    updates, all_of_them = Updates(4), Updates(None)
    for step in range(1, 11):
        updates.put(hypotheses(step))
        all_of_them.put(hypotheses(step))
    updates.end()
    all_of_them.end()
    assert drain(updates) == [(7, 7), (8, 8), (9, 9), (10, 10)]
    assert drain(all_of_them) == [(step, step) for step in range(1, 11)]


def test_what_is_not_there_yet_is_waited_for() -> None:
    updates = Updates(4)
    found: list[tuple[int, int]] = []
    owner = threading.Thread(target=lambda: found.extend(drain(updates)))
    owner.start()
    updates.put(hypotheses(1))
    updates.end()
    owner.join(10)
    assert found == [(1, 1)]
