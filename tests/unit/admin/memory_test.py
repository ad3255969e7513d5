import pytest

from saxml.admin import memory
from saxml.admin.memory import GIB, Need
from saxml.proto import admin_pb2

_M = admin_pb2.ModelServer


@pytest.mark.parametrize(
    ("chip", "gib"),
    [
        (_M.CHIP_TYPE_UNKNOWN, 8),
        (_M.CHIP_TYPE_TPU_V2, 8),
        (_M.CHIP_TYPE_TPU_V4I, 8),
        (_M.CHIP_TYPE_TPU_V3, 16),
        (_M.CHIP_TYPE_TPU_V4, 16),
        (_M.CHIP_TYPE_TPU_V5E, 16),
        (_M.CHIP_TYPE_GPU_T4, 16),
        (_M.CHIP_TYPE_TPU_V6E, 32),
        (_M.CHIP_TYPE_GPU_L4, 24),
        (_M.CHIP_TYPE_GPU_A100, 40),
        (_M.CHIP_TYPE_GPU_H100, 80),
        (_M.CHIP_TYPE_CPU, 64),
        (999, 64),
    ],
)
def test_each_chip_has_its_memory(chip: int, gib: int) -> None:
    assert memory.capacity(chip) == gib * GIB


@pytest.mark.parametrize(
    ("topology", "chips"),
    [
        (_M.CHIP_TOPOLOGY_UNKNOWN, 1),
        (_M.CHIP_TOPOLOGY_1, 1),
        (_M.CHIP_TOPOLOGY_2X2, 4),
        (_M.CHIP_TOPOLOGY_4X4X8, 128),
        (_M.CHIP_TOPOLOGY_8X16X16, 2048),
        (999, 1),
    ],
)
def test_a_topology_has_so_many_chips(topology: int, chips: int) -> None:
    assert memory.chips_in(topology) == chips


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("30", 30 * GIB),
        ("2.5", 5 * GIB // 2),
        ("32212254720", 30 * GIB),
        ("30GB", 30 * GIB),
        ('"30 GiB"', 30 * GIB),
        ("512M", GIB // 2),
        ("0", 0),
    ],
)
def test_memory_is_read_in_gib_or_bytes(text: str, size: int) -> None:
    assert Need.of_overrides({"ram": text}) == Need({1: size})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ram", "xx"),
        ("ram", "-1"),
        ("ram", ""),
        ("ram", "nan"),
        ("ramx", "1"),
        ("ram0", "1"),
        ("ram", "1" * 400),
    ],
)
def test_what_is_no_memory_is_passed_over_and_told(key: str, value: str) -> None:
    need = Need.of_overrides({key: value, "ram2": "3", "BATCH_SIZE": "1"})
    assert need.by_chips == {2: 3 * GIB}
    assert f"{key}={value}" in need.why


def test_other_overrides_are_no_need() -> None:
    assert Need.of_overrides({"BATCH_SIZE": "1"}) == Need()
    assert not Need().known


def test_the_exact_number_of_chips_counts_else_one_else_the_next_smaller() -> None:
    need = Need.of_overrides({"ram": "20", "ram4": "8"})
    assert [need.per_chip(n) for n in (1, 2, 4, 8)] == [20 * GIB, 20 * GIB, 8 * GIB, 20 * GIB]
    need = Need.of_overrides({"ram2": "9", "ram4": "5"})
    assert [need.per_chip(n) for n in (1, 2, 3, 8)] == [None, 9 * GIB, 9 * GIB, 5 * GIB]
    assert need.least_chips == 2


def test_a_total_is_spread_evenly() -> None:
    assert Need(total=10).per_chip(4) == 3
    assert Need().per_chip(4) is None


def test_sizes_are_for_people() -> None:
    assert memory.gigabytes(34 * GIB) == "34.0 GB"
    assert memory.gigabytes(0) == "0.0 MB"
