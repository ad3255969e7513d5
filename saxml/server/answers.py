"""Texts of one request as its tokens come: whole characters, ended by stop strings."""

from collections.abc import Callable, Sequence

import numpy as np

from saxml import native
from saxml.engine.decoders import Hypothesis, Ints
from saxml.server.text_codec import AnswerStream, TextCodec

_NO_TOKENS = np.empty(0, np.int32)


class Answers:
    """One answer for each sample or beam; used by one thread, that of the request's owner.

    An answer ends before the first of `stops` behind its first min_tokens tokens; its score is then
    that of the tokens up to the one which completed the stop string. What could still become a
    stop string is held back, and no more.
    """

    def __init__(
        self,
        count: int,
        codec: TextCodec,
        *,
        stops: Sequence[str],
        prefix: str,
        score_of: Callable[[Hypothesis], float],
        eos: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        """prefix: what each text begins with; stop strings are not looked for in it. eos: what ends
        the tokens instead of a stop token, if not empty."""
        self._answers = [
            _Answer(lambda: codec.stream(eos), stops, prefix, min_tokens) for _ in range(count)
        ]
        # What each answer was made of.
        self._hypotheses: list[Hypothesis] = []
        self._score_of = score_of

    def update(self, hypotheses: Sequence[Hypothesis]) -> list[int]:
        """Takes all that was generated so far; gives those that a stop string ended now."""
        stopped: list[int] = []
        if not self._hypotheses:
            self._hypotheses = [*hypotheses]
        for index, (answer, hypothesis) in enumerate(zip(self._answers, hypotheses, strict=True)):
            if not answer.stopped:
                self._hypotheses[index] = hypothesis
                answer.update(hypothesis.tokens, ended=hypothesis.ended)
                answer.score = self._score_of(hypothesis)
                if answer.stopped:
                    stopped.append(index)
        return stopped

    def finish(self, hypotheses: Sequence[Hypothesis]) -> None:
        """Takes the final tokens, and gives free what was held back."""
        self.update(hypotheses)
        for answer in self._answers:
            answer.end()

    @property
    def all_stopped(self) -> bool:
        """Whether stop strings have ended all of them."""
        return all(answer.stopped for answer in self._answers)

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """What each answer was made of so far; nothing before the first step."""
        return self._hypotheses

    def changes(self) -> list[tuple[str, int, float]]:
        """(new text, characters of the text given so far that stay, what is added to the score) of
        each, since the last call. All that was added makes the score: that is how clients of SAX
        count."""
        return [answer.take() for answer in self._answers]

    def results(self) -> list[tuple[str, float]]:
        """(text, score) of each."""
        return [(answer.text, answer.score) for answer in self._answers]


class _Answer:
    def __init__(
        self,
        new_stream: Callable[[], AnswerStream],
        stops: Sequence[str],
        prefix: str,
        min_tokens: int,
    ) -> None:
        self._new_stream = new_stream
        self._stops = list(stops)
        self._prefix = prefix
        self._min_tokens = min_tokens
        self._tokens = _NO_TOKENS
        self._over = False
        self.score = 0.0
        self.text = prefix
        self._kept = 0  # characters of it that were taken, and stay
        self._told = 0.0  # of the score
        self._restart()

    @property
    def stopped(self) -> bool:
        return self._matcher.matched is not None

    def update(self, tokens: Ints, *, ended: bool) -> None:
        seen = len(self._tokens)
        goes_on = self._over and (len(tokens) > seen or not ended)
        if len(tokens) < seen or goes_on or (tokens[:seen] != self._tokens).any():
            # Another sequence is the best one now: what both begin with need not be sent again.
            taken = self.text[: self._kept]
            self._restart()
            self._feed(tokens)
            self._kept = _common_prefix(taken, self.text)
        else:
            self._feed(tokens[seen:])
        self._tokens = tokens
        if ended:
            self.end()

    def end(self) -> None:
        if not self._over:
            self._over = True
            self.text += self._matcher.feed(self._stream.finish())
            self.text += self._matcher.finish()

    def take(self) -> tuple[str, int, float]:
        kept, self._kept = self._kept, len(self.text)
        added = self.score - self._told
        self._told += added
        return self.text[kept:], kept, added

    def _restart(self) -> None:
        self._stream = self._new_stream()
        self._matcher = native.StopMatcher(self._stops)
        self._tokens = _NO_TOKENS
        self._fed = 0
        self._over = False
        self.text = self._prefix

    def _feed(self, ids: Ints) -> None:
        free = min(len(ids), max(0, self._min_tokens - self._fed))
        self._fed += len(ids)
        if free:
            self.text += self._stream.feed(ids[:free])
        if free < len(ids):
            self.text += self._matcher.feed(self._stream.feed(ids[free:]))


def _common_prefix(a: str, b: str) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
