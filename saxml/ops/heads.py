"""Heads of attention, as plain data: who only reads configurations needs no JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Heads:
    """H query heads, K kv heads of E dims, and how they are rotated."""

    query: int
    kv: int
    dim: int
    style: str

    @property
    def scale(self) -> float:
        """What queries are multiplied by."""
        return float(self.dim**-0.5)
