"""Generation for one loaded model: from a request's text to its answers, whole or as they come.

generation = Generation(loaded)
asked = generation.inputs(extra)
with generation.run(text, asked, deadline, on_cancel, follow=True) as running:
    for steps in running.follow():
        send(running.changes())
"""

import contextlib
import dataclasses
import math
import random
from collections.abc import Iterator, Sequence

from saxml.engine.beam import BeamDecoder
from saxml.engine.decoders import Decoder, Hypothesis, Ints, SampleDecoder
from saxml.engine.engine import Engine
from saxml.engine.request import Request
from saxml.proto import common_pb2, lm_pb2
from saxml.server.answers import Answers
from saxml.server.generate_inputs import GenerateInputs
from saxml.server.loading import Loaded
from saxml.server.scoring import Scoring
from saxml.server.servable import OnCancel
from saxml.server.token_scores import TokenScores, of_prompt
from saxml.server.updates import Updates

# Steps that a slow reader of a stream may lag behind before it misses some.
_BACKLOG = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A request in flight; used by one thread, that of its owner."""

    engine: Engine
    request: Request
    updates: Updates
    answers: Answers
    scores: TokenScores | None
    # Of the prompt; told once.
    prompt_tokens: list[lm_pb2.ScoredToken]

    def follow(self) -> Iterator[int]:
        """Brings the answers up to date after each step, gives the number of the step, and ends
        when they are complete. Raises SaxError if they never will be."""
        while (update := self.updates.get()) is not None:
            steps, hypotheses = update
            for sample in self.answers.update(hypotheses):
                self.engine.finish_early(self.request, sample)
            if self.answers.all_stopped:
                return
            yield steps
        self.answers.finish(self.request.future.result())

    def changes(self) -> lm_pb2.GenerateStreamResponse:
        """What is new since the last call: texts as Answers.changes has them, and tokens."""
        items = [
            lm_pb2.GenerateStreamItem(text=text, prefix_len=kept, scores=[score])
            for text, kept, score in self.answers.changes()
        ]
        self._add_tokens(items)
        found = lm_pb2.GenerateStreamResponse(items=items, prompt_tokens=self.prompt_tokens)
        self.prompt_tokens.clear()
        return found

    def response(self, *, sort: bool) -> lm_pb2.GenerateResponse:
        """The answers, complete; sort: by score, best first."""
        texts = [
            lm_pb2.DecodedText(text=text, score=score) for text, score in self.answers.results()
        ]
        self._add_tokens(texts)
        if sort:
            texts.sort(key=lambda text: -text.score)
        return lm_pb2.GenerateResponse(texts=texts, prompt_tokens=self.prompt_tokens)

    def _add_tokens(
        self, answers: Sequence[lm_pb2.DecodedText] | Sequence[lm_pb2.GenerateStreamItem]
    ) -> None:
        if self.scores is None:
            return
        for sample, hypothesis in enumerate(self.answers.hypotheses):
            answers[sample].tokens.extend(self.scores.take(sample, hypothesis))


class Generation:
    """By a configuration's rules; any thread. Deadlines are on time.monotonic's clock."""

    def __init__(self, loaded: Loaded) -> None:
        self._params = loaded.params
        self._engine = loaded.engine
        self._beam = loaded.beam
        self._codec = loaded.codec
        # For samples whose request has no seed.
        self._seeds = random.Random(loaded.seed)

    def inputs(self, extra: common_pb2.ExtraInputs) -> GenerateInputs:
        """What a request asks for. Raises InvalidArgumentError."""
        return GenerateInputs.parse(
            extra, self._params, self._engine.config.vocab_size, lambda: self._seeds.getrandbits(31)
        )

    @contextlib.contextmanager
    def run(
        self,
        text: str,
        asked: GenerateInputs,
        deadline: float,
        on_cancel: OnCancel,
        *,
        follow: bool,
    ) -> Iterator[Running]:
        """Starts a request. One whose answers cannot be made, or are not wanted any more because
        the block is left by an exception, keeps no pages.

        follow: whether each step matters, or the end alone (but for stop strings). Raises
        InvalidArgumentError for what cannot be a prompt, and what Engine.submit raises.
        """
        running = self._start(text, asked, deadline, on_cancel, follow)
        try:
            yield running
        except BaseException:
            self._engine.cancel(running.request)
            raise

    def _start(
        self, text: str, asked: GenerateInputs, deadline: float, on_cancel: OnCancel, follow: bool
    ) -> Running:
        stops = self._codec.stops(asked.stops)
        prompt = self._codec.prompt(text)
        # First, as the answers can use the pages that it leaves.
        prompt_tokens = self._prompt_tokens(prompt, asked, deadline, on_cancel)
        decoder = self._decoder(asked, len(prompt))
        # The score of a text that a stop string ends is that of the step which completed it.
        updates = Updates(None if stops else _BACKLOG)
        request = self._engine.submit(
            prompt,
            decoder,
            deadline=deadline,
            sampling=asked.sampling,
            priority=asked.request.priority,
            cache_salt=asked.request.cache_salt,
            on_step=updates.put if follow or stops else None,
        )
        on_cancel(lambda: self._engine.cancel(request))
        request.future.add_done_callback(lambda _: updates.end())
        answers = Answers(
            decoder.width,
            self._codec,
            stops=stops,
            eos=asked.eos,
            min_tokens=asked.sampling.min_steps,
            prefix=self._codec.answer_prefix(text),
            score_of=self._score,
        )
        scores = None if asked.logprobs is None else TokenScores(self._codec, decoder.width)
        return Running(self._engine, request, updates, answers, scores, prompt_tokens)

    def _prompt_tokens(
        self, prompt: Ints, asked: GenerateInputs, deadline: float, on_cancel: OnCancel
    ) -> list[lm_pb2.ScoredToken]:
        if asked.prompt_logprobs is None:
            return []
        scored = None
        if len(prompt) > 1:
            scoring = Scoring(self._engine, asked.request, deadline, on_cancel)
            pair = prompt[:-1], prompt[1:]
            (scored,) = scoring.run([pair], logprobs=asked.prompt_logprobs, cache_read=False)
        return of_prompt(self._codec, prompt, scored)

    def _decoder(self, asked: GenerateInputs, prompt_tokens: int) -> Decoder:
        max_steps = min(asked.max_steps, self._params.max_seq_len - prompt_tokens)
        if self._beam is not None:
            return BeamDecoder(self._beam.shortened(max_steps, min_steps=asked.sampling.min_steps))
        return SampleDecoder(
            num_samples=asked.num_samples,
            max_steps=max_steps,
            stop_ids=() if asked.eos else self._params.stop_ids,
            stop_sequences=(asked.eos,) if asked.eos else (),
        )

    def _score(self, hypothesis: Hypothesis) -> float:
        if self._params.GENERATION_USE_GEOMEAN_PROB_SCORE:
            return geometric_mean(hypothesis)
        return hypothesis.score


def geometric_mean(hypothesis: Hypothesis) -> float:
    """Of the probabilities of its tokens."""
    return math.exp(hypothesis.score / max(1, len(hypothesis.tokens)))
