"""How much memory servers have and models need, in bytes a chip.

    capacity(chip_type) == 16 << 30
    need = Need.of_overrides({"ram": "30", "ram4": "8"})
    need.per_chip(4) == 8 << 30

Where publishers say nothing, a model needs the bytes of its checkpoint, spread over the chips.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from saxml.common import chips
from saxml.proto import admin_pb2

GIB = 1 << 30
# A plain number this small is taken for GiB: nobody means so few bytes.
LEAST_BYTES = 1 << 20

_M = admin_pb2.ModelServer
_GIB_PER_CHIP: dict[int, int] = {
    _M.CHIP_TYPE_UNKNOWN: 8,
    _M.CHIP_TYPE_TPU_V2: 8,
    _M.CHIP_TYPE_TPU_V4I: 8,
    _M.CHIP_TYPE_TPU_V3: 16,
    _M.CHIP_TYPE_TPU_V4: 16,
    _M.CHIP_TYPE_TPU_V5E: 16,
    _M.CHIP_TYPE_TPU_V6E: 32,
    _M.CHIP_TYPE_GPU_P100: 16,
    _M.CHIP_TYPE_GPU_V100: 16,
    _M.CHIP_TYPE_GPU_T4: 16,
    _M.CHIP_TYPE_GPU_L4: 24,
    _M.CHIP_TYPE_GPU_A100: 40,
    _M.CHIP_TYPE_GPU_H100: 80,
}
_GIB_OTHERWISE = 64
_KEY = re.compile(r"ram(\d{0,9})", re.ASCII)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(G|GB|GiB|M|MB|MiB))?", re.ASCII)


def capacity(chip: int) -> int:
    """Bytes that a chip of this type has for models."""
    return _GIB_PER_CHIP.get(chip, _GIB_OTHERWISE) * GIB


@functools.cache
def chips_in(topology: int) -> int:
    """How many chips a topology has; 1 for one that we do not know."""
    name = chips.topology_name(topology)
    return 1 if name == "unknown" else math.prod(int(n) for n in name.split("x"))


def gigabytes(size: float) -> str:
    """A size for people: "34.0 GB"."""
    return f"{size / GIB:.1f} GB" if size >= GIB / 10 else f"{size / (1 << 20):.1f} MB"


@dataclass(frozen=True, slots=True)
class Need:
    """What a model needs; without any figure it takes a server of its own."""

    # From overrides: number of chips -> bytes a chip.
    by_chips: Mapping[int, int] = field(default_factory=dict)
    # All arrays of the checkpoint together.
    total: int | None = None
    # Why there is no figure, or which overrides were passed over; "" if all is well.
    why: str = ""

    @classmethod
    def of_overrides(cls, overrides: Mapping[str, str]) -> "Need":
        """What `ram` (one chip) and `ramN` (N chips) say; what cannot be read is passed over."""
        by_chips: dict[int, int] = {}
        passed_over = []
        for key, value in sorted(overrides.items()):
            if not key.startswith("ram"):
                continue
            size = _size(value)
            named = _KEY.fullmatch(key)
            count = int(named[1] or 1) if named else 0
            if size is None or count < 1:
                passed_over.append(f"{key}={value}")
            else:
                by_chips[count] = size
        why = ""
        if passed_over:
            why = f"{', '.join(passed_over)} is no memory a chip, such as ram=30 or ram4=8 (GB)"
        return cls(by_chips, None, why)

    @property
    def known(self) -> bool:
        """Whether there is any figure."""
        return bool(self.by_chips) or self.total is not None

    @property
    def least_chips(self) -> int:
        """The fewest chips that there is a figure for."""
        return min(self.by_chips, default=1)

    @property
    def largest(self) -> int:
        """By which models are compared with each other: what one chip would need."""
        if self.by_chips:
            return self.by_chips.get(1, max(self.by_chips.values()))
        return self.total or 0

    def per_chip(self, chips: int) -> int | None:
        """Bytes on each of `chips` chips; None if that is not known.

        Of the overrides, the one for this number counts, else the one for one chip, else the one
        for the next smaller number.
        """
        if self.by_chips:
            if (exact := self.by_chips.get(chips)) is not None:
                return exact
            if (one := self.by_chips.get(1)) is not None:
                return one
            smaller = [n for n in self.by_chips if n < chips]
            return self.by_chips[max(smaller)] if smaller else None
        return None if self.total is None else -(-self.total // chips)


def _size(text: str) -> int | None:
    found = _AMOUNT.fullmatch(text.strip().strip('"'))
    if found is None or len(found[1]) > 20:
        return None
    number, unit = float(found[1]), found[2] or ""
    if unit:
        return math.ceil(number * (GIB if unit.startswith("G") else 1 << 20))
    return math.ceil(number * GIB) if number < LEAST_BYTES else int(number)
