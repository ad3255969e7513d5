import pytest

from saxml.common import chips
from saxml.common.errors import InvalidArgumentError
from saxml.proto import admin_pb2

Server = admin_pb2.ModelServer


def test_chips_are_spelled_as_in_the_flags() -> None:
    spelled = "tpuv2 tpuv3 tpuv4 tpuv4i tpuv5e tpuv6e p100 v100 t4 l4 a100 cpu h100"
    assert set(chips.CHIPS) == set(spelled.split())
    assert chips.parse_chip("tpuv5e") == Server.CHIP_TYPE_TPU_V5E
    assert chips.parse_chip("H100") == Server.CHIP_TYPE_GPU_H100
    assert chips.chip_name(Server.CHIP_TYPE_CPU) == "cpu"
    assert chips.chip_name(99) == "unknown"


def test_topologies_are_spelled_as_in_the_flags() -> None:
    assert chips.parse_topology("1") == Server.CHIP_TOPOLOGY_1
    assert chips.parse_topology("1x1") == Server.CHIP_TOPOLOGY_1X1
    assert chips.parse_topology("4x4x8_twisted") == Server.CHIP_TOPOLOGY_4X4X8
    assert chips.parse_topology("4x4x8_untwisted") == Server.CHIP_TOPOLOGY_4X4X8
    assert chips.topology_name(Server.CHIP_TOPOLOGY_2X2) == "2x2"
    assert len(chips.TOPOLOGIES) == 33


def test_unknown_ones_are_told_with_what_is_known() -> None:
    with pytest.raises(InvalidArgumentError, match=r'^unknown platform chip "tpuv9"; .* tpuv5e'):
        chips.parse_chip("tpuv9")
    with pytest.raises(InvalidArgumentError, match=r'^unknown platform topology "3x3"; .* 2x2,'):
        chips.parse_topology("3x3")
