"""Random schedules: pauses, partitions, crashes, lost and late writes, stale reads, bad clocks.

More of them run with SAX_SCHEDULES=1000000, one of them with SAX_SEED=<the seed of a failure>.
"""

import os

import pytest

from tests.unit.admin.election_simulation import (
    TTL_S,
    BrokenPromiseError,
    UnconditionalStore,
    Variant,
    simulate,
)

COUNT = int(os.environ.get("SAX_SCHEDULES", "100000"))


def test_promises_hold_in_random_schedules() -> None:
    if "SAX_SEED" in os.environ:
        simulate(int(os.environ["SAX_SEED"]))
        return
    takeovers = acknowledged = 0
    for seed in range(COUNT):
        world = simulate(seed)
        takeovers += world.takeovers
        acknowledged += len(world.acknowledged)
    # The schedules are not idle ones.
    assert takeovers > 1.5 * COUNT
    assert acknowledged > 3 * COUNT


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (Variant(lease_store=UnconditionalStore), "the lease .* follows|acts for term"),
        (Variant(state_store=UnconditionalStore), "undoes|writes the state"),
        (Variant(overstay=TTL_S), "acts for term"),
        (Variant(state_fence=False), "writes the state"),
    ],
    ids=["lease", "state", "overstay", "fence"],
)
def test_what_is_broken_is_noticed(variant: Variant, words: str) -> None:
    with pytest.raises(BrokenPromiseError, match=f"^seed .*({words})"):
        _simulate_many(variant)


def _simulate_many(variant: Variant) -> None:
    for seed in range(20_000):
        simulate(seed, variant)


def test_a_schedule_can_be_repeated() -> None:
    one, two = simulate(7), simulate(7)
    assert (one.now, one.acknowledged) == (two.now, two.acknowledged)
