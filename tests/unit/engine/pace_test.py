"""The bound on prompts beside decode rows."""

import pytest

from saxml.engine import pace


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 1.1, 1.9, 7.0], [64, 64, 64, 256]),
        ([1.0, 2.0, 4.0, 8.0], [16, 64, 256, 256]),
        ([1.0, 5.0, 25.0, 125.0], [4, 16, 64, 256]),
        ([1.0, 1.0, 1.0, 1.0], [256, 256, 256, 256]),
    ],
)
def test_prompts_may_double_a_step(seconds: list[float], expected: list[int]) -> None:
    assert pace.mix([4, 16, 64, 256], seconds) == expected


def test_nothing_is_gained_beyond_a_bucket_that_is_too_slow() -> None:
    assert pace.mix([4, 16, 64], [1.0, 3.0, 1.0]) == [4, 64, 64]


def test_the_ratio_can_be_chosen() -> None:
    assert pace.mix([4, 16, 64], [1.0, 2.0, 5.0], stretch=5.0) == [64, 64, 64]
