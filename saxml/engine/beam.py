"""Beam search as SAX defines it.

Live hypotheses start with scores [0, -1e9, -2e9, ...], so that the first step fans out from one. In
each step, with logp = log_softmax of float32 logits and g tokens generated so far:

1. while g < min_steps, the stop tokens' logp count as -1e20;
2. every live hypothesis proposes ended copies, one a stop token, with
   (S + logp[stop]) / ((g + 1 + 5) / 5) ** alpha,   S the sum of its logp (Wu et al. 2016, eq. 14,
   prompt excluded); the beam_size best ended ones of all steps are kept;
3. of each live hypothesis the tokens_per_beam best tokens are taken, stop tokens lose 1e9 (unless
   early_exit), and the beam_size best by unnormalised score live on.

It runs max_steps steps; with early_exit it ends once every live hypothesis contains a stop token.
Results are sorted by normalised score; places that were never filled have score -1e9 and max_steps
zeros as tokens.

It stops before that (unless fixed_steps) when the steps that are left cannot change the result. Let
S be the best live score. A logp is never above 0, so every score that follows from a live one is at
most S <= 0. An ended copy of length n has that, at most, over norm(n) = ((n + 5) / 5) ** alpha, and
norm grows with n (alpha >= 0), so no copy of length n <= max_steps can exceed S / norm(max_steps).
When that is no more than the worst ended score kept, none will be kept: of equal ones the earlier
stays. The float32 operations used are monotonic, so the argument holds for the rounded numbers.

While it runs, the best so far are the ended hypotheses kept and the live ones, each of g tokens
with the score S / ((g + 5) / 5) ** alpha as if it ended here; the beam_size best of all, of equal
ones the ended first. Live ones that carry a penalty of rule 3, or that started at -1e9, are no
answers yet and are left out; places without a hypothesis have no tokens and score -1e9. When the
search is over the live ones are gone, and the best so far are the results.
"""

import dataclasses

import numpy as np

from saxml.engine import result
from saxml.engine.decoders import Continue, Floats, Hypothesis, Ints

UNFILLED = np.float32(-1e9)
_MASKED = np.float32(-1e20)
_STOP_PENALTY = np.float32(1e9)
# Between any sum of log-probabilities and any score with a penalty in it.
_NO_ANSWER = UNFILLED / 2
_NO_TOKENS = np.empty(0, np.int32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BeamOptions:
    """Constants of the model's configuration: BEAM_SIZE, TOKENS_PER_BEAM, LENGTH_NORM_ALPHA and so
    on."""

    beam_size: int
    tokens_per_beam: int
    alpha: float
    min_steps: int
    max_steps: int
    stop_ids: tuple[int, ...]
    early_exit: bool
    fixed_steps: bool = False

    def shortened(self, max_steps: int, *, min_steps: int = 0) -> "BeamOptions":
        """The same for a request that asks for fewer steps, or for a longer least answer. A minimum
        that would leave no step to end in gives way to a shorter maximum."""
        longest = min(max_steps, self.max_steps)
        least = max(self.min_steps, min_steps)
        if longest < self.max_steps or min_steps > self.min_steps:
            least = min(least, longest - 1)
        return dataclasses.replace(self, max_steps=longest, min_steps=least)

    @property
    def num_candidates(self) -> int:
        """Best tokens a row that the search must see: enough when all stop tokens are masked."""
        return self.tokens_per_beam + len(self.stop_ids)


class BeamDecoder:
    """One request's beam search; see the module. Scores are float32, ties go to the earlier beam
    and the lower token."""

    fork_at_start = False

    def __init__(self, options: BeamOptions) -> None:
        self.options = options
        self.width = options.beam_size
        self.max_new_tokens = options.max_steps
        self._stop_ids = np.array(options.stop_ids, np.int32)
        self._live = np.arange(self.width, dtype=np.float32) * UNFILLED
        self._tokens = np.zeros((self.width, options.max_steps), np.int32)
        self._stopped = np.zeros(self.width, bool)
        self._ended_scores = np.full(self.width, UNFILLED)
        self._ended: list[Ints] = [np.zeros(options.max_steps, np.int32)] * self.width
        self._generated = 0
        self._over = False

    def step(self, seqs: Ints, rows: Floats) -> Continue | None:
        """See Decoder."""
        o, B = self.options, self.width
        if self._generated == 0:
            rows = np.broadcast_to(rows[0], (B, rows.shape[1]))
            physical = np.zeros(B, np.int32)
        else:
            physical = np.arange(B, dtype=np.int32)
        logp = rows[:, result.best_logp(o.num_candidates)].astype(np.float32)
        ids = rows[:, result.best_id(o.num_candidates)].astype(np.int32)
        stop_logp = rows[:, result.stop_logp(len(o.stop_ids))].astype(np.float32)
        is_stop = np.isin(ids, self._stop_ids)
        if self._generated < o.min_steps:
            logp = np.where(is_stop, _MASKED, logp)
            stop_logp = np.full_like(stop_logp, _MASKED)
        self._collect_ended(stop_logp)
        parents, tokens = self._choose_live(logp, ids, is_stop)
        self._generated += 1
        self._over = self._is_over()
        if self._over:
            return None
        return Continue(physical[parents], tokens)

    def _is_over(self) -> bool:
        o = self.options
        if self._generated >= o.max_steps or (o.early_exit and self._stopped.all()):
            return True
        bound = self._live.max() / self._norm(o.max_steps)
        return bool(not o.fixed_steps and bound <= self._ended_scores[-1])

    def _norm(self, length: int) -> np.float32:
        return (np.float32(length + 5) / np.float32(5)) ** np.float32(self.options.alpha)

    def _collect_ended(self, stop_logp: Floats) -> None:
        """Rule 2: merges the ended copies of this step, stop_logp f32[B, stops], into the best so
        far."""
        norm = self._norm(self._generated + 1)
        proposed = ((self._live[:, None] + stop_logp) / norm).ravel()
        scores = np.concatenate([self._ended_scores, proposed])
        best = np.argsort(-scores, kind="stable")[: self.width]
        ended = []
        for place in best.tolist():
            if place < self.width:
                ended.append(self._ended[place])
                continue
            beam, stop = divmod(place - self.width, len(self._stop_ids))
            ended.append(np.append(self._tokens[beam, : self._generated], self._stop_ids[stop]))
        self._ended, self._ended_scores = ended, scores[best]

    def _choose_live(self, logp: Floats, ids: Ints, is_stop: np.ndarray) -> tuple[Ints, Ints]:
        """Rule 3: parents and tokens of the next live hypotheses; logp, ids, is_stop are [B,
        candidates]."""
        o, B = self.options, self.width
        rank = np.argsort(-logp, axis=1, kind="stable")[:, : o.tokens_per_beam]
        logp, ids, is_stop = (np.take_along_axis(a, rank, 1) for a in (logp, ids, is_stop))
        if not o.early_exit:
            logp = np.where(is_stop, logp - _STOP_PENALTY, logp)
        scores = (self._live[:, None] + logp).ravel()
        best = np.argsort(-scores, kind="stable")[:B]
        parents = (best // rank.shape[1]).astype(np.int32)
        tokens = ids.ravel()[best]
        self._live = scores[best]
        self._stopped = self._stopped[parents] | is_stop.ravel()[best]
        self._tokens = self._tokens[parents]
        self._tokens[:, self._generated] = tokens
        return parents, tokens

    def results(self) -> list[Hypothesis]:
        """The best so far, best first; once `step` has said None, the results."""
        ended = [
            Hypothesis(tokens, float(score), ended=True)
            for tokens, score in zip(self._ended, self._ended_scores, strict=True)
        ]
        if self._over:
            return ended
        found = [h for h in ended if h.score > _NO_ANSWER]
        norm = self._norm(self._generated)
        for tokens, score in zip(self._tokens[:, : self._generated], self._live, strict=True):
            if score > _NO_ANSWER:
                found.append(Hypothesis(tokens, float(score / norm)))
        found.sort(key=lambda h: -h.score)
        found += [Hypothesis(_NO_TOKENS, float(UNFILLED))] * self.width
        return found[: self.width]
