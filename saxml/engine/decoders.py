"""What a request does with the results of steps: sampling and scoring. Pure state, no threads, no
device.

A decoder is fed the result rows of its entries and answers which sequences go on, with which
tokens.
"""

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from saxml.engine.step import ResultColumns

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Continue:
    """The request goes on: sequence j continues parents[j] of the last step with tokens[j].

    samples[j] is the sample it belongs to, which its random draws depend on; None where nothing is
    drawn.
    """

    parents: Ints
    tokens: Ints
    samples: Ints | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Hypothesis:
    """One generated sequence, the stop token included, and its score (higher is better). Nobody
    writes into its tokens."""

    tokens: Ints
    score: float
    # Whether it is known that no more tokens will come.
    ended: bool = False


class Decoder(Protocol):
    """One request's choices."""

    width: int  # sequences alive at once, at most
    fork_at_start: bool  # whether the prompt's end gives `width` entries instead of one
    max_new_tokens: int

    def step(self, seqs: Ints, rows: Floats) -> Continue | None:
        """Takes the result rows f32[n, width] of entries of sequences seqs i32[n]; None:
        finished."""

    def results(self) -> list[Hypothesis]:
        """What there is so far, best last known; final once `step` has said None."""


class SampleDecoder:
    """num_samples independent samples (one and temperature 0: greedy decoding).

    A sample ends with a stop token, at max_steps tokens, or when it is told to. Its score is the
    sum of log p of its tokens, untempered.
    """

    fork_at_start = True

    def __init__(self, *, num_samples: int, max_steps: int, stop_ids: tuple[int, ...]) -> None:
        self.width = num_samples
        self.max_new_tokens = max_steps
        self._stop_ids = frozenset(stop_ids)
        self._alive = list(range(num_samples))  # the sample that each sequence belongs to
        self._ended: set[int] = set()  # those that were told to end
        # Results are views of this: what they show never changes.
        self._tokens = np.zeros((num_samples, max_steps), np.int32)
        self._lengths = [0] * num_samples
        self._scores = [0.0] * num_samples
        self._started = False

    def step(self, seqs: Ints, rows: Floats) -> Continue | None:
        """See Decoder."""
        parents, tokens, alive = [], [], []
        for index, (seq, row) in enumerate(zip(seqs.tolist(), rows, strict=True)):
            # At the prompt's end all entries are of sequence 0, in the order of the samples.
            sample = self._alive[seq if self._started else index]
            if sample in self._ended:
                continue
            token = int(row[ResultColumns.TOKEN])
            self._tokens[sample, self._lengths[sample]] = token
            self._lengths[sample] += 1
            self._scores[sample] += float(row[ResultColumns.LOGP])
            if token not in self._stop_ids and self._lengths[sample] < self.max_new_tokens:
                parents.append(seq)
                tokens.append(token)
                alive.append(sample)
        self._started = True
        self._alive = alive
        if not alive:
            return None
        return Continue(
            np.array(parents, np.int32), np.array(tokens, np.int32), np.array(alive, np.int32)
        )

    def end(self, sample: int) -> bool:
        """Ends a sample with the tokens it has; True if none is left that goes on."""
        self._ended.add(sample)
        return self._ended.issuperset(self._alive)

    def results(self) -> list[Hypothesis]:
        """The samples in their places."""
        going_on = set(self._alive) - self._ended
        return [
            Hypothesis(self._tokens[sample, :length], score, sample not in going_on)
            for sample, (length, score) in enumerate(zip(self._lengths, self._scores, strict=True))
        ]


class ScoreDecoder:
    """Collects log p of given tokens; its one hypothesis' score is their sum."""

    width = 1
    fork_at_start = False
    max_new_tokens = 0

    def __init__(self, targets: Ints) -> None:
        self.targets = targets
        self._logp: list[float] = []

    def step(self, seqs: Ints, rows: Floats) -> Continue | None:
        """See Decoder. Scoring never continues a sequence; None is said when all targets have been
        seen."""
        self._logp += rows[:, ResultColumns.TARGET].tolist()
        if len(self._logp) < len(self.targets):
            return Continue(np.empty(0, np.int32), np.empty(0, np.int32))
        return None

    def results(self) -> list[Hypothesis]:
        """One hypothesis: the targets and the sum of their log-probabilities."""
        return [Hypothesis(self.targets, float(np.sum(self._logp)))]
