"""What a decoder makes of result rows, without a device."""

import numpy as np
import pytest

from saxml.common import errors
from saxml.engine.decoders import Hypothesis, LogProbs, SampleDecoder, ScoreDecoder
from saxml.engine.metrics import Reason
from saxml.engine.request import Request
from saxml.engine.sampling_params import SamplingParams


def rows_of(*tokens: int, best: int = 0) -> np.ndarray:
    """Rows that choose these tokens with log-probability -token, the best ones being token, token +
    1, ... with -1, -2, ..."""
    rows = [
        [t, -t, -t - 0.5, 0.0, *np.array([[-1.0 - i, t + i] for i in range(best)]).ravel()]
        for t in tokens
    ]
    return np.array(rows, np.float32)


def feed(decoder: SampleDecoder, *steps: tuple[int, ...]) -> list[list[int]]:
    """Drives a decoder with the tokens of each step's sequences; gives the samples."""
    for number, tokens in enumerate(steps):
        seqs = np.zeros(len(tokens), np.int32) if number == 0 else np.arange(len(tokens))
        going_on = decoder.step(seqs.astype(np.int32), rows_of(*tokens))
        last = number == len(steps) - 1
        assert (going_on is None) == last
        if going_on is not None:
            assert len(going_on.parents) == len(steps[number + 1])
    return [h.tokens.tolist() for h in decoder.results()]


def test_stop_sequence_ends_a_sample_with_it_included() -> None:
    decoder = SampleDecoder(
        num_samples=2, max_steps=9, stop_ids=(1,), stop_sequences=((4, 5), (6, 4, 5, 5))
    )
    # Of sample 0: 5 alone is none, 4 5 is. Sample 1 goes on.
    found = feed(decoder, (5, 4), (4, 7), (5, 5), (4,), (1,))
    assert found == [[5, 4, 5], [4, 7, 5, 4, 1]]


def test_stop_sequence_may_overlap_itself_and_have_one_token() -> None:
    decoder = SampleDecoder(num_samples=1, max_steps=9, stop_ids=(), stop_sequences=((3, 3, 4),))
    assert feed(decoder, (3,), (3,), (3,), (4,)) == [[3, 3, 3, 4]]
    decoder = SampleDecoder(num_samples=1, max_steps=9, stop_ids=(), stop_sequences=((8,),))
    assert feed(decoder, (2,), (8,)) == [[2, 8]]


def test_stop_sequence_longer_than_what_there_is_does_not_match() -> None:
    decoder = SampleDecoder(num_samples=1, max_steps=3, stop_ids=(), stop_sequences=((0, 0, 7),))
    # The rows' unused places are zeros; they are not tokens.
    assert feed(decoder, (7,), (7,), (2,)) == [[7, 7, 2]]


def test_what_ends_the_longest_sample_is_known() -> None:
    decoder = SampleDecoder(num_samples=1, max_steps=3, stop_ids=(9,), stop_sequences=((4, 5),))
    ended = Request(1, decoder, 1)
    for tokens, reason in (
        ([4, 4, 5], Reason.STOP),
        ([4, 4, 9], Reason.STOP),
        ([5, 5, 5], Reason.LENGTH),
        ([4, 5], Reason.STOP),
    ):
        found = Hypothesis(np.array(tokens, np.int32), 0.0)
        assert ended.reason([found], ()) == reason


def test_stop_sequence_does_not_end_a_sample_before_min_steps() -> None:
    decoder = SampleDecoder(num_samples=1, max_steps=9, stop_ids=(), stop_sequences=((4, 5),))
    decoder.prepare(SamplingParams(min_steps=3))
    assert feed(decoder, (4,), (5,), (4,), (5,)) == [[4, 5, 4, 5]]


def test_empty_stop_sequence_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="empty"):
        SampleDecoder(num_samples=1, max_steps=3, stop_ids=(), stop_sequences=((1,), ()))


def test_samples_keep_their_numbers_and_parents() -> None:
    decoder = SampleDecoder(num_samples=3, max_steps=9, stop_ids=(1,))
    first = decoder.step(np.zeros(3, np.int32), rows_of(5, 1, 6))
    assert first is not None
    # One sequence was the prompt's; its children are those of samples 0 and 2.
    assert first.parents.tolist() == [0, 0]
    assert first.samples is not None
    assert first.samples.tolist() == [0, 2]
    second = decoder.step(np.arange(2, dtype=np.int32), rows_of(1, 7))
    assert second is not None
    assert (second.parents.tolist(), second.tokens.tolist()) == ([1], [7])
    assert not decoder.end(0)
    assert decoder.end(2)
    assert [h.tokens.tolist() for h in decoder.results()] == [[5, 1], [1], [6, 7]]


def test_log_probabilities_of_samples_are_arrays_that_never_change() -> None:
    decoder = SampleDecoder(num_samples=2, max_steps=5, stop_ids=(1,))
    decoder.prepare(SamplingParams(logprobs=2))
    decoder.step(np.zeros(2, np.int32), rows_of(5, 3, best=4))
    early = decoder.results()[1]
    assert isinstance(early.logprobs, LogProbs)
    decoder.step(np.arange(2, dtype=np.int32), rows_of(1, 4, best=4))
    decoder.step(np.zeros(1, np.int32), rows_of(6, best=4))
    first, second = decoder.results()
    assert isinstance(first.logprobs, LogProbs)
    assert isinstance(second.logprobs, LogProbs)
    assert first.logprobs.chosen.tolist() == [-5, -1]
    assert second.logprobs.chosen.tolist() == [-3, -4, -6]
    assert second.score == -13
    assert second.logprobs.best.tolist() == [[-1, -2]] * 3
    assert second.logprobs.best_ids.tolist() == [[3, 4], [4, 5], [6, 7]]
    assert early.logprobs.chosen.tolist() == [-3]
    assert early.logprobs.best_ids.tolist() == [[3, 4]]
    assert early.logprobs.best_ids.dtype == np.int32


def test_score_collects_its_targets_over_steps() -> None:
    decoder = ScoreDecoder(np.array([7, 8, 9], np.int32), logprobs=1)
    going_on = decoder.step(np.zeros(2, np.int32), rows_of(1, 2, best=2))
    assert going_on is not None
    assert len(going_on.parents) == 0
    assert not decoder.results()[0].ended
    assert decoder.step(np.zeros(1, np.int32), rows_of(3, best=2)) is None
    found = decoder.results()[0]
    assert isinstance(found.logprobs, LogProbs)
    assert found.tokens.tolist() == [7, 8, 9]
    assert found.score == -7.5
    assert found.logprobs.chosen.tolist() == [-1.5, -2.5, -3.5]
    assert found.logprobs.best_ids.tolist() == [[1], [2], [3]]
