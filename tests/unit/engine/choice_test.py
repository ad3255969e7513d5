"""The device's result of a step, in plain JAX and by the CPU kernels: what is chosen, and what is
told of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml.common import errors
from saxml.engine import adjustments, choice, result
from saxml.engine.options import EngineOptions
from saxml.engine.sampling_params import SamplingParams
from saxml.ops.backend import PLAIN, Backend
from tests.unit.engine import tiny

VOCAB, SIZE = 12, 512
KERNELS = Backend("float32")
NOTHING = adjustments.nothing(SIZE)
CHOOSE = jax.jit(choice.choose, static_argnums=0)


@pytest.fixture(params=[PLAIN, KERNELS], ids=["plain", "kernels"])
def options(request: pytest.FixtureRequest) -> EngineOptions:
    """Of an engine that computes one way or the other."""
    return tiny.options(num_candidates=3, max_logprobs=4, stop_ids=(2, 7), backend=request.param)


def choose(
    options: EngineOptions,
    logits: np.ndarray,
    params: SamplingParams,
    *,
    first_stop: int = 0,
    changes: np.ndarray = NOTHING,
    target: int = -1,
    valid: int | None = None,
) -> np.ndarray:
    """Results of rows at positions 10, 11, 12, ..."""
    N = len(logits)
    words = choice.row_params(params, first_stop=first_stop)
    entries = choice.Entries(
        params=jnp.broadcast_to(words, (N, choice.ROW_PARAMS)),
        target=jnp.full(N, target, jnp.int32),
        sample=jnp.zeros(N, jnp.int32),
        position=jnp.arange(10, 10 + N, dtype=jnp.int32),
        valid=jnp.int32(N if valid is None else valid),
    )
    return np.asarray(CHOOSE(options, logits, entries, changes))


def biased(token: int, bias: float) -> np.ndarray:
    """A change of all four rows."""
    rows = np.array([[token], [0], [0], [0]], np.int32)
    rows.view(np.float32)[1:3] = [[bias], [1.0]]
    return adjustments.pack(SIZE, [(row, rows) for row in range(4)])


LOGITS = np.random.default_rng(0).normal(size=(4, VOCAB)).astype(np.float32) * 2
LOGP = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True))


def test_columns_are_of_the_models_own_distribution(options: EngineOptions) -> None:
    params = SamplingParams(temperature=3.0, seed=5)
    for changes in (NOTHING, biased(4, 50.0)):
        rows = choose(options, LOGITS, params, changes=changes, target=9)
        token = rows[:, result.TOKEN].astype(int)
        assert (token == 4).all() == (changes is not NOTHING)
        every = np.arange(4)
        np.testing.assert_allclose(rows[:, result.LOGP], LOGP[every, token], atol=1e-5)
        np.testing.assert_allclose(rows[:, result.TARGET], LOGP[:, 9], atol=1e-5)
        best = np.argsort(-LOGITS, axis=1, kind="stable")[:, :4]
        np.testing.assert_array_equal(rows[:, result.best_id(4)], best)
        wanted = np.take_along_axis(LOGP, best, 1)
        np.testing.assert_allclose(rows[:, result.best_logp(4)], wanted, atol=1e-5)
        np.testing.assert_array_equal(rows[:, result.best_id(3)], best[:, :3])
        np.testing.assert_allclose(rows[:, result.stop_logp(2)], LOGP[:, [2, 7]], atol=1e-5)
        mass = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1))
        np.testing.assert_allclose(rows[:, result.MASS], mass, atol=1e-5)


def test_the_best_tokens_are_found_where_a_row_asks_for_them(options: EngineOptions) -> None:
    sampling = dataclasses.replace(options, num_candidates=0)
    words = np.stack([choice.row_params(SamplingParams(), logprobs=n) for n in (0, 0, 2, 0)])

    def best_ids(params: np.ndarray) -> np.ndarray:
        rows = jnp.zeros(4, jnp.int32)
        entries = choice.Entries(jnp.array(params), rows, rows, rows, jnp.int32(4))
        found = np.asarray(CHOOSE(sampling, LOGITS, entries, NOTHING))
        assert found[:, result.TOKEN].tolist() == LOGITS.argmax(1).tolist()
        return found[:, result.best_id(2)]

    assert best_ids(words).tolist() == np.argsort(-LOGITS, axis=1)[:, :2].tolist()
    assert not best_ids(words[[0, 0, 1, 3]]).any()


def test_lowest_token_wins_among_equals(options: EngineOptions) -> None:
    logits = np.zeros((4, VOCAB), np.float32)
    logits[:, [3, 6, 8]] = 1.5
    rows = choose(options, logits, SamplingParams())
    assert rows[:, result.TOKEN].tolist() == [3] * 4
    assert rows[0, result.best_id(4)].tolist() == [3, 6, 8, 0]
    # Also where something else is changed, and where the change itself makes a tie.
    assert choose(options, logits, SamplingParams(), changes=biased(3, -9.0))[0, result.TOKEN] == 6
    assert choose(options, logits, SamplingParams(), changes=biased(1, 1.5))[0, result.TOKEN] == 1


def test_stop_tokens_are_barred_before_a_position(options: EngineOptions) -> None:
    logits = LOGITS.copy()
    logits[:, 7] = 50.0
    rows = choose(options, logits, SamplingParams(temperature=2.0), first_stop=12)
    assert (rows[:2, result.TOKEN] != 7).all()
    assert (rows[:2, result.TOKEN] != 2).all()
    assert rows[2:, result.TOKEN].tolist() == [7, 7]
    # Beams see the distribution as it is.
    assert (rows[:, result.best_id(1)] == 7).all()
    # A bias does not get around it.
    rows = choose(options, logits, SamplingParams(), first_stop=12, changes=biased(2, 100.0))
    assert (rows[:2, result.TOKEN] != 2).all()
    assert rows[2:, result.TOKEN].tolist() == [2, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("changes", [NOTHING, biased(1, 1.0)], ids=["plain", "changed"])
def test_rows_that_are_no_distribution_say_so_and_change_no_other(
    options: EngineOptions, bad: float, changes: np.ndarray
) -> None:
    logits = LOGITS.copy()
    logits[1, 5] = bad
    logits[3] = -np.inf
    params = SamplingParams(temperature=1.0, seed=3)
    rows = choose(options, logits, params, changes=changes)
    sound = choose(options, LOGITS, params, changes=changes)
    assert np.isfinite(rows[:, result.MASS]).tolist() == [True, False, True, False]
    np.testing.assert_array_equal(rows[[0, 2]], sound[[0, 2]])


def test_no_log_probability_is_below_the_least(options: EngineOptions) -> None:
    logits = LOGITS.copy()
    logits[:, 9] = -np.inf
    logits[:, 2] = -1e30
    rows = choose(options, logits, SamplingParams(), target=9)
    assert (rows[:, result.TARGET] == result.LEAST_LOGP).all()
    assert (rows[:, result.stop_logp(2)][:, 0] == result.LEAST_LOGP).all()
    assert np.isfinite(rows).all()
    assert (choose(options, logits, SamplingParams(temperature=100.0))[:, result.TOKEN] != 9).all()


@pytest.mark.parametrize(
    ("vocab", "top_k", "num_candidates"), [(3, 1, 3), (97, 0, 0), (1001, 1, 1), (1001, 40, 12)]
)
def test_the_kernels_choose_what_plain_jax_does(
    vocab: int, top_k: int, num_candidates: int
) -> None:
    rng = np.random.default_rng(vocab + top_k)
    for seed in range(12):
        logits = rng.normal(0, 5, size=(4, vocab)).astype(np.float32)
        if seed % 2:
            logits = np.round(logits) + np.float32(0)  # many ties, no -0.0
        logits[1, rng.integers(0, vocab, vocab // 2)] = -np.inf
        logits[1, 0] = 1
        logits[2] += 3e4
        changed = seed % 4 >= 2
        plain, kernels = (
            choose(
                tiny.options(
                    top_k=top_k, num_candidates=num_candidates, stop_ids=(0, 2), backend=backend
                ),
                logits,
                SamplingParams(temperature=0.7 * (seed % 3), top_p=0.9, seed=seed),
                first_stop=12 if changed else 0,
                changes=biased(seed % vocab, 8.0) if changed else NOTHING,
                target=vocab - 1,
            )
            for backend in (PLAIN, KERNELS)
        )
        np.testing.assert_array_equal(kernels[:, result.TOKEN], plain[:, result.TOKEN])
        ids = result.best_id(num_candidates)
        np.testing.assert_array_equal(kernels[:, ids], plain[:, ids])
        np.testing.assert_allclose(kernels, plain, rtol=1e-6, atol=1e-5)


def test_rows_behind_the_last_entry_change_none_before_it(options: EngineOptions) -> None:
    params = SamplingParams(temperature=1.0, seed=1)
    logits = LOGITS.copy()
    logits[2:] = np.nan
    rows = choose(options, logits, params, valid=2)
    np.testing.assert_array_equal(rows[:2], choose(options, LOGITS, params)[:2])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends need no rewriting")
def test_xla_sorts_no_row_to_find_its_best() -> None:
    N, V = 4, 500
    rows = jnp.zeros(N, jnp.int32)
    params = jnp.zeros((N, choice.ROW_PARAMS), jnp.int32)
    lowered = CHOOSE.lower(
        tiny.options(num_candidates=3, max_logprobs=4),
        jnp.zeros((N, V)),
        choice.Entries(params, rows, rows, rows, jnp.int32(N)),
        NOTHING,
    )
    program = lowered.compile().as_text() or ""
    assert "TopK" in program
    assert " sort(" not in program


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_logprobs": 98}, "max_logprobs is 98; the vocabulary has 97 tokens"),
        ({"num_candidates": 98}, "need 98 candidates; the vocabulary has 97"),
        ({"stop_ids": (tiny.STOP, 97)}, "stop token 97 is outside the vocabulary of 97"),
        ({"stop_ids": (-1,)}, "stop token -1 is outside the vocabulary of 97"),
    ],
)
def test_what_the_vocabulary_does_not_have_is_refused(
    changed: dict[str, Any], message: str
) -> None:
    with (
        pytest.raises(errors.InvalidArgumentError, match=message),
        tiny.running(tiny.LLAMA, **changed),
    ):
        pass
