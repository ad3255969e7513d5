"""A prompt as one vector: the hidden states of its tokens, pooled."""

import weakref
from collections.abc import Mapping

import jax
import numpy as np
import numpy.typing as npt

from saxml import native
from saxml.engine.decoders import Continue, Floats, Hypothesis, Ints

POOLINGS = ("last", "mean")


class EmbedDecoder:
    """Pools the hidden states f[D] of a prompt's tokens, after the model's final norm: the last
    token's, or the mean of all.

    The prompt is computed like any other, in pieces, among whatever else runs. Each piece comes by
    `take`; when the prompt is in, `step` ends the request, and `embedding` has the vector. The mean
    needs every token, so such a request must not read the prefix cache.
    """

    width = 1
    fork_at_start = False
    max_new_tokens = 0

    def __init__(self, length: int, pooling: str) -> None:
        """length: tokens of the prompt; pooling: one of POOLINGS."""
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
        self._length = length
        self._mean = pooling == "mean"
        self._taken = 0  # tokens from the first one, that are in the sum
        self._sum: npt.NDArray[np.float64] | None = None

    @property
    def cache_read(self) -> bool:
        """Whether the request may find the beginning of its prompt in the prefix cache."""
        return not self._mean

    def take(self, position: int, hidden: Floats) -> None:
        """Hidden states f[n, D] of the tokens from `position` on. What was taken before, and is
        computed again after others had its pages, is not counted twice."""
        end = position + len(hidden)
        if not self._mean:
            self._taken = end
            self._sum = hidden[-1].astype(np.float64)
        elif position <= self._taken < end:
            fresh = hidden[self._taken - position :].astype(np.float64).sum(0)
            self._sum = fresh if self._sum is None else self._sum + fresh
            self._taken = end

    def step(self, seqs: Ints, rows: Floats) -> Continue | None:
        """See Decoder: the entry of the last token ends the request. Raises ValueError if hidden
        states are missing, or are no numbers."""
        if self._sum is None or self._taken != self._length:
            raise ValueError(f"hidden states of {self._taken} of {self._length} tokens came")
        if not np.isfinite(self._sum).all():
            raise ValueError("hidden states are not finite")
        return None

    def results(self) -> list[Hypothesis]:
        """None: nothing is generated."""
        return []

    @property
    def embedding(self) -> Floats:
        """f32[D], once the request has finished."""
        assert self._sum is not None
        return np.asarray(self._sum / (self._length if self._mean else 1), np.float32)


class Embedders:
    """The decoders in flight that want hidden states. False while there are none: then a step costs
    one look at this."""

    def __init__(self) -> None:
        # A decoder goes when its request is forgotten, however that came about.
        self._decoders: weakref.WeakValueDictionary[int, EmbedDecoder] = (
            weakref.WeakValueDictionary()
        )

    def __bool__(self) -> bool:
        return bool(self._decoders)

    def add(self, request_id: int, decoder: EmbedDecoder) -> None:
        """From now on its pieces are brought to it; any thread."""
        self._decoders[request_id] = decoder

    def take(
        self,
        plan: native.StepPlan,
        offsets: Mapping[str, tuple[int, int]],
        hidden: jax.Array,
    ) -> None:
        """Hands out what a step of this plan left on the device, hidden f[T, D]; it is fetched only
        if one of the decoders has a row in it."""
        rows = [
            (row, decoder)
            for row, request_id in enumerate(plan.row_request.tolist())
            if (decoder := self._decoders.get(request_id)) is not None
        ]
        if not rows:
            return
        fetched = np.asarray(hidden)
        q_start, positions = (
            plan.packed[first : first + count]
            for first, count in (offsets["q_start"], offsets["positions"])
        )
        for row, decoder in rows:
            begin, end = q_start[row : row + 2].tolist()
            decoder.take(int(positions[begin]), fetched[begin:end])
