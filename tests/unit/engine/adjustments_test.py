"""Changes of single logits: kept incrementally by the host and made sparsely by the device, they
are what the definition over whole rows gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saxml.common import errors
from saxml.engine import adjustments
from saxml.engine.adjustments import MAX_STOP_IDS
from saxml.engine.sampling_params import SamplingParams
from tests.unit.engine import tiny

VOCAB, ROWS, SIZE = 23, 4, 1024
APPLY = jax.jit(adjustments.apply)
TOKENS = st.integers(0, VOCAB - 1)
PARAMS = st.builds(
    SamplingParams,
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -1.0]),
    logit_bias=st.dictionaries(TOKENS, st.floats(-100, 100, width=32), max_size=4),
    min_steps=st.integers(0, 3),
)


def defined(
    params: SamplingParams,
    logits: np.ndarray,
    prompt: list[int],
    generated: list[int],
    stop_ids: list[int],
) -> np.ndarray:
    """The module's text of saxml.engine.sampling_params, one token after another."""
    out = logits.astype(np.float32).copy()
    for token in range(VOCAB):
        x = out[token]
        if token in stop_ids and len(generated) < params.min_steps:
            x = np.float32(-np.inf)
        x = x + np.float32(params.logit_bias.get(token, 0.0))
        if token in prompt or token in generated:
            penalty = np.float32(params.repetition_penalty)
            x = x / penalty if x > 0 else x * penalty
        count = generated.count(token)
        x = x - np.float32(params.frequency_penalty * count + params.presence_penalty * (count > 0))
        out[token] = x
    return out


@settings(max_examples=150, deadline=None)
@given(
    params=PARAMS,
    prompt=st.lists(TOKENS, min_size=1, max_size=12),
    samples=st.lists(st.lists(TOKENS, max_size=8), min_size=1, max_size=ROWS),
    stop_ids=st.lists(TOKENS, max_size=2, unique=True),
    seed=st.integers(0, 1000),
)
def test_changes_are_those_of_the_definition(
    params: SamplingParams,
    prompt: list[int],
    samples: list[list[int]],
    stop_ids: list[int],
    seed: int,
) -> None:
    adjuster = adjustments.Adjuster(
        params,
        np.array(prompt, np.int32),
        num_samples=len(samples),
        max_new_tokens=8,
        barred=stop_ids if params.min_steps else (),
    )
    for sample, generated in enumerate(samples):
        for token in generated:
            adjuster.add(sample, token)
    logits = np.random.default_rng(seed).normal(size=(ROWS, VOCAB)).astype(np.float32) * 3
    packed = adjustments.pack(SIZE, [(s, adjuster.changes(s)) for s in range(len(samples))])
    found = np.asarray(APPLY(packed, logits))
    for sample, generated in enumerate(samples):
        wanted = defined(params, logits[sample], prompt, generated, stop_ids)
        # One float32 rounding more or less: penalties are summed up token by token.
        np.testing.assert_allclose(found[sample], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[len(samples) :], logits[len(samples) :])


def test_more_changes_than_a_block_are_all_made() -> None:
    rows = np.zeros((4, VOCAB), np.int32)
    rows[0] = np.arange(VOCAB)
    rows.view(np.float32)[1:3] = np.float32(1)  # bias 1, no repetition penalty
    # Entry 0 fills the first block and most of the second; entry 3 comes at the very end.
    changes = [(0, rows)] * 43 + [(3, rows)]
    packed = adjustments.pack(SIZE, changes)
    assert packed[0] == 44 * VOCAB > 512
    found = np.asarray(APPLY(packed, np.zeros((ROWS, VOCAB), np.float32)))
    assert (found[3] == 1).all()
    assert (found[1:3] == 0).all()


def test_nothing_is_nothing() -> None:
    nothing = adjustments.nothing(SIZE)
    logits = np.ones((ROWS, VOCAB), np.float32)
    assert not bool(adjustments.present(jnp.asarray(nothing)))
    np.testing.assert_array_equal(np.asarray(APPLY(nothing, logits)), logits)


def test_only_requests_that_need_one_have_an_adjuster() -> None:
    options, prompt = tiny.options(), np.array([1, 2], np.int32)

    def made(params: SamplingParams, *stop_ids: int) -> adjustments.Adjuster | None:
        return adjustments.adjuster(
            options,
            params,
            prompt,
            num_samples=1,
            max_new_tokens=4,
            stop_ids=frozenset(stop_ids),
        )

    assert made(SamplingParams(temperature=1.0, top_k=3, min_p=0.1), tiny.STOP) is None
    assert made(SamplingParams(min_steps=3), tiny.STOP) is None  # the device bars the engine's own
    assert made(SamplingParams(min_steps=3)) is None
    assert made(SamplingParams(min_steps=3), -1) is None
    own = made(SamplingParams(min_steps=2), 7, 9)
    assert own is not None
    assert own.changes(0)[0].tolist() == [7, 9]
    own.add(0, 1)
    own.add(0, 1)
    assert own.changes(0).shape == (4, 0)
    with pytest.raises(errors.InvalidArgumentError, match=f"at most {MAX_STOP_IDS}"):
        made(SamplingParams(min_steps=1), *range(MAX_STOP_IDS + 1))
