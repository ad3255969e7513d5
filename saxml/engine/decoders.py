"""What a request does with the results of steps: sampling and scoring. Pure state, no threads, no
device.

A decoder is fed the result rows of its entries and answers which sequences go on, with which
tokens.
"""

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from saxml.common import errors
from saxml.engine import result
from saxml.engine.sampling_params import SamplingParams

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class Continue(NamedTuple):
    """The request goes on: sequence j continues parents[j] of the last step with tokens[j].

    samples[j] is the sample it belongs to, which its random draws depend on; None where nothing is
    drawn.
    """

    parents: Ints
    tokens: Ints
    samples: Ints | None = None


class LogProbs(NamedTuple):
    """Of n tokens, under the model's own distribution: before temperature, penalties, biases and
    barred tokens, and none below result.LEAST_LOGP."""

    chosen: Floats  # f32[n]
    best: Floats  # f32[n, k], descending
    best_ids: Ints  # i32[n, k]; of equal logits the lowest id first


@dataclasses.dataclass(frozen=True, slots=True)
class Hypothesis:
    """One generated sequence, the stop token included, and its score (higher is better). Nobody
    writes into its arrays."""

    tokens: Ints
    score: float
    # Whether it is known that no more tokens will come.
    ended: bool = False
    # Of its tokens; None for beams.
    logprobs: LogProbs | None = None


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

    A sample ends with a stop token or a stop sequence, which it contains, at max_steps tokens, or
    when it is told to. Its score is the sum of its tokens' log-probabilities.
    """

    fork_at_start = True

    def __init__(
        self,
        *,
        num_samples: int,
        max_steps: int,
        stop_ids: tuple[int, ...],
        stop_sequences: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        self.width = num_samples
        self.max_new_tokens = max_steps
        self.stop_ids = frozenset(stop_ids)
        self._min_steps = 0
        # By the token that completes them.
        self._sequences: dict[int, list[list[int]]] = {}
        for sequence in stop_sequences:
            if not sequence:
                raise errors.InvalidArgumentError("a stop sequence is empty")
            self._sequences.setdefault(sequence[-1], []).append(list(sequence))
        # The samples that go on. All of these have the same length.
        self._alive = list(range(num_samples))
        self._length = 0
        self._samples = np.arange(num_samples, dtype=np.int32)
        self._ended: set[int] = set()  # those that were told to end
        # Results are views of these: what they show never changes.
        self._tokens = np.zeros((num_samples, max_steps), np.int32)
        self._logp = np.zeros((num_samples, max_steps), np.float32)
        self._best = np.zeros((num_samples, max_steps, 0), np.float32)
        self._best_ids = np.zeros((num_samples, max_steps, 0), np.int32)
        self._lengths = [0] * num_samples
        self._scores = [0.0] * num_samples

    def prepare(self, params: SamplingParams) -> None:
        """Says, before the first step, what the request asks for."""
        self._min_steps = params.min_steps
        shape = (self.width, self.max_new_tokens, params.logprobs)
        self._best, self._best_ids = np.zeros(shape, np.float32), np.zeros(shape, np.int32)

    def step(self, seqs: Ints, rows: Floats) -> Continue | None:
        """See Decoder. The rows are those of all samples that go on, in their order."""
        chosen = rows[:, result.TOKEN].astype(np.int32)
        place = self._length
        self._length = place + 1
        over = False
        for sample, token, logp in zip(
            self._alive, chosen.tolist(), rows[:, result.LOGP].tolist(), strict=True
        ):
            if sample in self._ended:
                over = True
                continue
            self._tokens[sample, place] = token
            self._logp[sample, place] = logp
            self._scores[sample] += logp
            self._lengths[sample] = place + 1
            over = over or token in self.stop_ids or token in self._sequences
        if self._best.shape[2]:
            self._take_best(rows)
        if over or place + 1 == self.max_new_tokens or place == 0:
            return self._narrowed(seqs, chosen)
        return Continue(seqs, chosen, self._samples)

    def _take_best(self, rows: Floats) -> None:
        count = self._best.shape[2]
        places = self._samples, self._length - 1
        self._best[places] = rows[:, result.best_logp(count)]
        self._best_ids[places] = rows[:, result.best_id(count)]

    def _narrowed(self, seqs: Ints, chosen: Ints) -> Continue | None:
        """Goes on with those samples that do."""
        whole = self._length == self.max_new_tokens
        going_on = [
            index
            for index, sample in enumerate(self._alive)
            if not whole
            and sample not in self._ended
            and not self.stops(self._tokens[sample, : self._length])
        ]
        kept = np.array(going_on, np.int32)
        self._alive = [self._alive[index] for index in going_on]
        self._samples = self._samples[kept]
        return Continue(seqs[kept], chosen[kept], self._samples) if going_on else None

    def stops(self, tokens: Ints) -> bool:
        """Whether the last of a sample's tokens i32[n] ends it; n is 1 or more."""
        last = int(tokens[-1])
        if last in self.stop_ids:
            return True
        if len(tokens) <= self._min_steps:
            return False
        return any(
            len(sequence) <= len(tokens)
            and tokens[len(tokens) - len(sequence) :].tolist() == sequence
            for sequence in self._sequences.get(last, ())
        )

    def end(self, sample: int) -> bool:
        """Ends a sample with the tokens it has; True if none is left that goes on."""
        self._ended.add(sample)
        return self._ended.issuperset(self._alive)

    def results(self) -> list[Hypothesis]:
        """The samples in their places."""
        going_on = set(self._alive) - self._ended
        return [
            Hypothesis(
                self._tokens[sample, :length],
                score,
                sample not in going_on,
                LogProbs(
                    self._logp[sample, :length],
                    self._best[sample, :length],
                    self._best_ids[sample, :length],
                ),
            )
            for sample, (length, score) in enumerate(zip(self._lengths, self._scores, strict=True))
        ]


class ScoreDecoder:
    """Collects log p of given tokens, and of the best `logprobs` in each one's place; its one
    hypothesis' score is the sum of the former.

    Log-probabilities of a prompt are those of its tokens but the first, scored behind all but the
    last; Engine.submit with cache_read=False computes each position anew.
    """

    width = 1
    fork_at_start = False
    max_new_tokens = 0

    def __init__(self, targets: Ints, *, logprobs: int = 0) -> None:
        self.targets = targets
        self.logprobs = logprobs
        self._logp = np.zeros(len(targets), np.float32)
        self._best = np.zeros((len(targets), logprobs), np.float32)
        self._best_ids = np.zeros((len(targets), logprobs), np.int32)
        self._seen = 0

    def step(self, seqs: Ints, rows: Floats) -> Continue | None:
        """See Decoder. Scoring never continues a sequence; None is said when all targets have been
        seen."""
        begin, self._seen = self._seen, self._seen + len(rows)
        self._logp[begin : self._seen] = rows[:, result.TARGET]
        self._best[begin : self._seen] = rows[:, result.best_logp(self.logprobs)]
        self._best_ids[begin : self._seen] = rows[:, result.best_id(self.logprobs)]
        if self._seen < len(self.targets):
            return Continue(np.empty(0, np.int32), np.empty(0, np.int32))
        return None

    def results(self) -> list[Hypothesis]:
        """One hypothesis: the targets and the sum of their log-probabilities."""
        seen = self._seen
        return [
            Hypothesis(
                self.targets,
                float(self._logp[:seen].sum(dtype=np.float64)),
                seen == len(self.targets),
                LogProbs(self._logp[:seen], self._best[:seen], self._best_ids[:seen]),
            )
        ]
