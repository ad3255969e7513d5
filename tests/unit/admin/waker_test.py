from saxml.admin.waker import Sleeper, choose


def _awake(address: str) -> Sleeper:
    return Sleeper(address, False, 50.0, 0.0)


def test_nobody_is_woken_where_nobody_sleeps() -> None:
    assert choose([]) is None
    assert choose([_awake("a")]) is None


def test_rejections_of_all_sleepers_count_not_those_of_the_last() -> None:
    one, two = Sleeper("a", True, 9.0, 1.0), Sleeper("b", True, 0.0, 0.0)
    # 8 more a second over 2 sleepers are 4, for 3 that are awake.
    awake = [_awake(c) for c in "xyz"]
    assert choose([one, two, *awake]) == "b"
    assert choose([two, *awake, one]) == "b"
    assert choose([one, two, *awake, _awake("w")]) is None


def test_only_growth_counts() -> None:
    assert choose([Sleeper("a", True, 9.0, 9.0)]) is None
    assert choose([Sleeper("a", True, 9.0, 8.5)]) == "a"
    assert choose([Sleeper("a", True, 5.0, 0.0), Sleeper("b", True, 0.0, 5.0)]) is None


def test_the_highest_address_is_woken() -> None:
    sleepers = [Sleeper(a, True, 9.0, 0.0) for a in ("a:1", "c:1", "b:1")]
    assert choose(sleepers) == "c:1"
