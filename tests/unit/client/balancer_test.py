import random
from collections import Counter
from contextlib import ExitStack

import pytest

from saxml.client.balancer import Balancer
from saxml.common.errors import UnavailableError

SERVERS = [f"10.0.0.{i}:1" for i in range(8)]


def test_takes_the_less_loaded_of_two() -> None:
    balancer = Balancer(random.Random(1), 37)
    with balancer.pick(["a", "b"]) as first, balancer.pick(["a", "b"]) as second:
        assert {first, second} == {"a", "b"}


def test_long_calls_spread_evenly() -> None:
    balancer = Balancer(random.Random(1), 37)
    with ExitStack() as held:
        for _ in range(800):
            held.enter_context(balancer.pick(SERVERS))
        loads = [balancer.in_flight(s) for s in SERVERS]
        # Two choices keep the gap at log log n; one choice would give a deviation of about 10.
        assert max(loads) - min(loads) <= 8
    assert [balancer.in_flight(s) for s in SERVERS] == [0] * 8


def test_short_calls_spread_over_all_servers() -> None:
    balancer = Balancer(random.Random(1), 37)
    counts: Counter[str] = Counter()
    for _ in range(8000):
        with balancer.pick(SERVERS) as address:
            counts[address] += 1
    assert all(800 < counts[s] < 1200 for s in SERVERS)


def test_slow_server_gets_less() -> None:
    balancer = Balancer(random.Random(1), 37)
    with ExitStack() as held:
        held.enter_context(balancer.pick(["slow"]))
        for _ in range(50):
            with balancer.pick(["slow", "fast"]) as address:
                assert address == "fast"


def test_failed_servers_are_avoided_unless_there_is_no_other() -> None:
    balancer = Balancer(random.Random(1), 37)
    for _ in range(20):
        with balancer.pick(["a", "b"], avoid=["a"]) as address:
            assert address == "b"
    with balancer.pick(["a"], avoid=["a"]) as address:
        assert address == "a"


def test_server_that_fails_a_call_is_not_counted_for_ever() -> None:
    balancer = Balancer(random.Random(1), 37)
    with pytest.raises(RuntimeError), balancer.pick(["a"]):
        raise RuntimeError
    assert balancer.in_flight("a") == 0


def test_at_most_max_servers_are_used_and_clients_differ() -> None:
    used = []
    for seed in range(20):
        balancer = Balancer(random.Random(seed), 3)
        mine = set()
        for _ in range(100):
            with balancer.pick(SERVERS) as address:
                mine.add(address)
        assert len(mine) == 3
        used.append(mine)
    assert set().union(*used) == set(SERVERS)


def test_no_server_is_an_error() -> None:
    with pytest.raises(UnavailableError), Balancer(random.Random(1), 3).pick([]):
        pass
