"""A step that was given to the device, and whose result was not read yet."""

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import numpy as np
import numpy.typing as npt

from saxml import native
from saxml.engine import result
from saxml.engine.decoders import Floats, Ints


@dataclasses.dataclass(slots=True)
class Flight:
    """`samples` i32[n] are those of the plan's entries.

    A request may have run ahead into this step: it was planned before the tokens of the step before
    were known. Some of its samples may turn out to have ended with these; then `going_on` has those
    of the request that did not, and the entries of the others are stale.
    """

    plan: native.StepPlan
    start: float  # time.monotonic() when it was dispatched
    found: jax.Array
    hidden: jax.Array
    samples: Ints
    owners: list[int]  # of the entries, by request
    going_on: dict[int, Ints] = dataclasses.field(default_factory=dict)

    def requests(self) -> list[int]:
        """Those that have entries, in the plan's order."""
        return [owner for owner, _ in itertools.groupby(self.owners)]

    def wait(self) -> Floats:
        """The rows of its entries, once it is done."""
        return np.asarray(self.found)[: self.plan.num_entries]

    def by_request(self, rows: Floats) -> Iterator[tuple[int, Ints, Floats, bool]]:
        """Each request, the sequences of its entries, their rows, and whether these are sound:
        logits that are no distribution have no tokens."""
        sound = np.isfinite(rows[:, result.MASS])
        all_sound, seqs = sound.all(), self.plan.entry_seq
        first = 0
        for owner, entries in itertools.groupby(self.owners):
            last = first + len(list(entries))
            mine: slice | npt.NDArray[np.intp] = slice(first, last)
            if (going_on := self.going_on.get(owner)) is not None:
                mine = first + np.flatnonzero(np.isin(self.samples[first:last], going_on))
            yield owner, seqs[mine], rows[mine], bool(all_sound or sound[mine].all())
            first = last
