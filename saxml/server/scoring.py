"""Scores of many suffixes of one prefix: a request of the engine each, that share the prefix's
pages."""

from collections.abc import Sequence

from saxml.common import errors
from saxml.engine.decoders import Hypothesis, Ints, ScoreDecoder
from saxml.engine.engine import Engine
from saxml.engine.request import Request
from saxml.server.generate_inputs import RequestInputs
from saxml.server.servable import OnCancel


class Scoring:
    """One call; used by one thread, but for `cancel`.

    However many suffixes there are, they go through: when there is no room for another one, the
    call waits for one of its own. It is refused only when there is no room for the first.
    """

    def __init__(
        self, engine: Engine, asked: RequestInputs, deadline: float, on_cancel: OnCancel
    ) -> None:
        self._engine = engine
        self._asked = asked
        self._deadline = deadline
        self._requests: list[Request] = []
        self._cancelled = False
        on_cancel(self.cancel)

    def cancel(self) -> None:
        """Gives up; any thread."""
        self._cancelled = True
        for request in [*self._requests]:
            self._engine.cancel(request)

    def run(
        self, encoded: Sequence[tuple[Ints, Ints]], *, logprobs: int = 0, cache_read: bool = True
    ) -> list[Hypothesis]:
        """What TextCodec.scored gives -> the targets with the sum of their log-probabilities, in
        the same order. For logprobs see ScoreDecoder, for cache_read Engine.submit.

        Raises what Engine.submit and its requests raise.
        """
        try:
            for inputs, targets in encoded:
                decoder = ScoreDecoder(targets, logprobs=logprobs)
                self._requests.append(self._submit(inputs, decoder, cache_read))
                if self._cancelled:  # perhaps before this one was in the list
                    self.cancel()
            return [request.future.result()[0] for request in self._requests]
        except BaseException:
            self.cancel()
            raise

    def _submit(self, inputs: Ints, decoder: ScoreDecoder, cache_read: bool) -> Request:
        while True:
            try:
                return self._engine.submit(
                    inputs,
                    decoder,
                    deadline=self._deadline,
                    priority=self._asked.priority,
                    cache_salt=self._asked.cache_salt,
                    cache_read=cache_read,
                )
            except errors.ResourceExhaustedError:
                own = next((r for r in self._requests if not r.future.done()), None)
                if own is None:
                    raise
                own.future.result()
