"""Beam search against a brute-force implementation of its definition."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.engine.beam import BeamDecoder, BeamOptions
from saxml.engine.decoders import Hypothesis
from tests.unit.engine.brute_force_beam import beam_search

VOCAB = 11


Logits = Callable[[list[int]], np.ndarray]


def language(seed: int, stop_bias: float) -> Logits:
    """A made-up language model: logits by the generated tokens, the first two being the stop
    tokens."""

    def logits_of(tokens: list[int]) -> np.ndarray:
        rng = np.random.default_rng([seed, *tokens])
        logits = rng.normal(size=VOCAB).astype(np.float32) * 2
        logits[:2] += stop_bias
        return logits

    return logits_of


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = logits - logits.max()
    shifted -= np.log(np.exp(shifted).sum(dtype=np.float32))
    return shifted


def run(
    logits_of: Logits,
    options: BeamOptions,
    steps: list[int] | None = None,
    best_so_far: list[list[Hypothesis]] | None = None,
) -> list[Hypothesis]:
    """Drives a decoder as the engine does, with a list of token lists in place of sequences."""
    decoder = BeamDecoder(options)
    sequences: list[list[int]] = [[]]
    while True:
        rows = []
        for tokens in sequences:
            logp = log_softmax(logits_of(tokens))
            ids = np.argsort(-logp, kind="stable")[: options.num_candidates]
            best = np.stack([logp[ids], ids], axis=1).ravel()
            rows.append([0, 0, 0, 0, *best, *logp[list(options.stop_ids)]])
        seqs = np.arange(len(sequences), dtype=np.int32)
        going_on = decoder.step(seqs, np.array(rows, np.float32))
        if steps is not None:
            steps.append(len(sequences))
        if going_on is None:
            return decoder.results()
        if best_so_far is not None:
            best_so_far.append(decoder.results())
        assert len(going_on.parents) == options.beam_size
        sequences = [
            [*sequences[p], t]
            for p, t in zip(going_on.parents.tolist(), going_on.tokens.tolist(), strict=True)
        ]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    stop_bias=st.sampled_from([-4.0, 0.0, 3.0]),
    beam_size=st.integers(1, 5),
    tokens_per_beam=st.integers(1, 5),
    alpha=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    min_steps=st.integers(0, 4),
    max_steps=st.integers(1, 6),
    num_stop=st.integers(1, 2),
    early_exit=st.booleans(),
    fixed_steps=st.booleans(),
)
def test_results_equal_brute_force(
    seed: int, stop_bias: float, num_stop: int, fixed_steps: bool, **options: Any
) -> None:
    stop_ids = (0, 1)[:num_stop]
    logits_of = language(seed, stop_bias)
    found = run(logits_of, BeamOptions(stop_ids=stop_ids, fixed_steps=fixed_steps, **options))
    wanted = beam_search(logits_of, stop_ids=stop_ids, **options)
    assert [h.tokens.tolist() for h in found] == [tokens for tokens, _ in wanted]
    np.testing.assert_allclose(
        [h.score for h in found], [score for _, score in wanted], rtol=1e-5, atol=1e-5
    )


def test_search_stops_when_no_step_left_can_change_the_result() -> None:
    options = BeamOptions(
        beam_size=2,
        tokens_per_beam=3,
        alpha=0.5,
        min_steps=0,
        max_steps=50,
        stop_ids=(0,),
        early_exit=False,
    )
    short: list[int] = []
    long: list[int] = []
    found = run(language(5, 3.0), options, short)
    fixed = run(language(5, 3.0), dataclasses.replace(options, fixed_steps=True), long)
    assert [h.tokens.tolist() for h in found] == [h.tokens.tolist() for h in fixed]
    assert len(short) < 20
    assert len(long) == 50


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    stop_bias=st.sampled_from([-4.0, 0.0, 3.0]),
    beam_size=st.integers(1, 4),
    tokens_per_beam=st.integers(1, 4),
    min_steps=st.integers(0, 3),
)
def test_best_so_far_are_the_ended_kept_and_the_live_in_one_ranking(
    seed: int, stop_bias: float, **numbers: int
) -> None:
    stop_ids = (0, 1)
    options = BeamOptions(
        alpha=0.5, stop_ids=stop_ids, max_steps=6, early_exit=False, fixed_steps=True, **numbers
    )
    logits_of = language(seed, stop_bias)
    shown: list[list[Hypothesis]] = []
    run(logits_of, options, best_so_far=shown)
    for generated, found in enumerate(shown, 1):
        scores = [h.score for h in found]
        assert scores == sorted(scores, reverse=True)
        assert len(found) == options.beam_size
        # What a search that ends here has found: every one it shows is ended and kept.
        ended = run(logits_of, dataclasses.replace(options, max_steps=generated))
        kept = {tuple(h.tokens.tolist()): h.score for h in ended if h.score > -1e8}
        for place, h in enumerate(found):
            tokens = tuple(h.tokens.tolist())
            if h.ended:
                assert kept[tokens] == h.score
            elif tokens:
                assert len(tokens) == generated
                assert not set(tokens) & set(stop_ids)
                logp = sum(
                    float(log_softmax(logits_of(list(tokens[:i])))[t]) for i, t in enumerate(tokens)
                )
                assert h.score == pytest.approx(logp / ((generated + 5) / 5) ** 0.5, abs=1e-4)
            else:
                assert h.score == -1e9
                assert all(other.score == -1e9 for other in found[place:])
        left_out = [score for tokens, score in kept.items() if score > scores[-1]]
        assert len(left_out) <= sum(h.ended for h in found)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ((9, 0), (9, 4)),  # nothing is asked for
        ((99, 0), (9, 4)),  # never more than the configuration has
        ((7, 0), (7, 4)),
        ((3, 0), (3, 2)),  # the least gives way: some step must be left to end in
        ((1, 0), (1, 0)),
        ((9, 6), (9, 6)),
        ((9, 50), (9, 8)),
        ((9, 2), (9, 4)),
    ],
)
def test_request_shortens_the_search(asked: tuple[int, int], wanted: tuple[int, int]) -> None:
    options = BeamOptions(
        beam_size=2,
        tokens_per_beam=3,
        alpha=0.5,
        min_steps=4,
        max_steps=9,
        stop_ids=(0,),
        early_exit=False,
    )
    shorter = options.shortened(asked[0], min_steps=asked[1])
    assert (shorter.max_steps, shorter.min_steps) == wanted
    found = run(language(3, 0.0), shorter)
    assert all(wanted[1] < len(h.tokens) <= wanted[0] for h in found if h.score > -1e9)
    assert found[0].score > -1e9


def test_unfilled_places_are_zeros_with_the_least_score() -> None:
    options = BeamOptions(
        beam_size=3,
        tokens_per_beam=3,
        alpha=0.5,
        min_steps=9,
        max_steps=4,
        stop_ids=(0,),
        early_exit=False,
    )
    found = run(language(1, 0.0), options)
    assert [h.score for h in found] == [-1e9] * 3
    assert [h.tokens.tolist() for h in found] == [[0] * 4] * 3


def test_score_of_the_guide_follows_from_its_log_probability() -> None:
    # 66 tokens, alpha 0.5: the guide's best beam, -0.023136413, has a summed log p of -0.0872.
    assert pytest.approx(-0.023136413, abs=1e-5) == -0.0872 / ((66 + 5) / 5) ** 0.5
