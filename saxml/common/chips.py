"""Chips and topologies as users spell them in --platform_chip and --platform_topology."""

from typing import cast

from saxml.common.errors import InvalidArgumentError
from saxml.common.names import quote
from saxml.proto import admin_pb2

_CHIP_PREFIX = "CHIP_TYPE_"
_TOPOLOGY_PREFIX = "CHIP_TOPOLOGY_"


def _spell_chip(enum_name: str) -> str:
    # CHIP_TYPE_TPU_V5E -> tpuv5e, CHIP_TYPE_GPU_H100 -> h100, CHIP_TYPE_CPU -> cpu
    return enum_name.removeprefix(_CHIP_PREFIX).lower().replace("tpu_", "tpu").removeprefix("gpu_")


CHIPS: dict[str, admin_pb2.ModelServer.ChipType] = {
    _spell_chip(name): cast(admin_pb2.ModelServer.ChipType, value)
    for name, value in admin_pb2.ModelServer.ChipType.items()
    if value != admin_pb2.ModelServer.CHIP_TYPE_UNKNOWN
}
TOPOLOGIES: dict[str, admin_pb2.ModelServer.ChipTopology] = {
    name.removeprefix(_TOPOLOGY_PREFIX).lower(): cast(admin_pb2.ModelServer.ChipTopology, value)
    for name, value in admin_pb2.ModelServer.ChipTopology.items()
    if value != admin_pb2.ModelServer.CHIP_TOPOLOGY_UNKNOWN
}


def parse_chip(text: str) -> admin_pb2.ModelServer.ChipType:
    """The chip called `text`, such as tpuv5e, h100 or cpu; errors list them all."""
    chip = CHIPS.get(text.lower())
    if chip is None:
        raise InvalidArgumentError(
            f"unknown platform chip {quote(text)}; it should be one of {', '.join(sorted(CHIPS))}"
        )
    return chip


def parse_topology(text: str) -> admin_pb2.ModelServer.ChipTopology:
    """The topology called `text`, such as 1, 2x2 or 4x4x8_twisted; errors list them all."""
    plain = text.lower().removesuffix("_untwisted").removesuffix("_twisted")
    topology = TOPOLOGIES.get(plain)
    if topology is None:
        known = sorted(TOPOLOGIES, key=lambda t: [int(n) for n in t.split("x")])
        raise InvalidArgumentError(
            f"unknown platform topology {quote(text)}; it should be one of {', '.join(known)}"
        )
    return topology


def chip_name(chip: int) -> str:
    """How users spell `chip`; "unknown" for what we do not know."""
    return next((name for name, value in CHIPS.items() if value == chip), "unknown")


def topology_name(topology: int) -> str:
    """How users spell `topology`; "unknown" for what we do not know."""
    return next((name for name, value in TOPOLOGIES.items() if value == topology), "unknown")
