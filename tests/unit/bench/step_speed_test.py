"""A step of the kernels against plain JAX in the same run: one that has become twice as slow fails.

Compared are the quickest of many steps of our engine, everything around them included, and the
quickest of many passes of jitted float32 products with matrices of the same sizes, in turn. What
other programs do lengthens both; no time by itself is looked at.
"""

import functools
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml import kernels
from saxml.engine.decoders import SampleDecoder
from saxml.engine.engine import Engine
from saxml.server import configs, loading, registry

L, D, V = 6, 512, 8192
_ROUNDS = 12
_STEPS = 8
_PROMPT = 4
# How many times as fast as plain JAX a step is at the least, by level and rows: about half of what
# was measured on two cores of a Zen 4 EPYC that were busy otherwise, too. Weights are in bfloat16,
# half of what plain JAX reads.
FLOORS = {
    "avx512_bf16": {1: 1.1, 8: 1.7},
    "avx512": {1: 1.2, 8: 1.1},
    "avx2": {1: 1.2, 8: 0.6},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    configs.import_all()
    overrides = {
        "RANDOM_WEIGHTS": True,
        "NUM_LAYERS": L,
        "MODEL_DIMS": D,
        "NUM_HEADS": 8,
        "DIMS_PER_HEAD": D // 8,
        "HIDDEN_DIMS": 4 * D,
        "ROTARY_DIMS": 32,
        "VOCAB_SIZE": V,
        "SOS_ID": 0,
        "EOS_ID": 1,
        "INPUT_SEQ_LEN": 64,
        "MIN_DECODE_STEPS": 0,
        "MAX_DECODE_STEPS": 32,
        "BATCH_SIZE": 8,
        "USE_BEAM_SEARCH": False,
        "TOP_K": 1,
        "BUCKET_KEYS": None,
        "KV_CACHE_GIB": 0.1,
        "PREFILL_STRETCH": None,
    }
    path = "saxml.server.pax.lm.params.gptj.GPTJ4TokenizedBF16BS32"
    params = registry.resolve(path)({key: json.dumps(value) for key, value in overrides.items()})
    made = loading.load(params, loading.NO_CHECKPOINT, loading.LoadOptions()).engine
    yield made
    made.stop()


def step_seconds(engine: Engine, rows: int) -> float:
    """Of the quickest step in which all rows decode."""
    times: list[list[float]] = [[] for _ in range(rows)]
    requests = []
    for row in range(rows):
        decoder = SampleDecoder(num_samples=1, max_steps=_STEPS + rows, stop_ids=())
        prompt = np.random.default_rng().integers(2, V, _PROMPT).astype(np.int32)
        note = functools.partial(_note, times[row])
        requests.append(engine.submit(prompt, decoder, on_step=note))
    for request in requests:
        request.future.result()
    begin = max(row[0] for row in times)
    end = min(row[-1] for row in times)
    return min(
        after - before
        for row in times
        for before, after in itertools.pairwise(row)
        if before >= begin and after <= end
    )


def _note(times: list[float], found: object) -> None:
    times.append(time.perf_counter())


def plain_matrices() -> list[jax.Array]:
    sizes = [(D, 7 * D), (5 * D, D)] * L + [(D, V)]
    keys = jax.random.split(jax.random.key(0), len(sizes))
    return [jax.random.normal(key, size) * 0.02 for key, size in zip(keys, sizes, strict=True)]


@jax.jit
def plain_products(x: jax.Array, matrices: Sequence[jax.Array]) -> jax.Array:
    for wide, back in zip(matrices[:-1:2], matrices[1::2], strict=True):
        x = x + (x @ wide)[:, : 5 * D] @ back
    return x @ matrices[-1]


def plain_seconds(matrices: Sequence[jax.Array], rows: int) -> float:
    x = jnp.ones((rows, D))
    start = time.perf_counter()
    plain_products(x, matrices).block_until_ready()
    return time.perf_counter() - start


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_is_as_many_times_faster_than_plain_jax_as_it_was(engine: Engine, rows: int) -> None:
    floors = FLOORS.get(kernels.level())
    if floors is None:
        pytest.skip(f"nothing was measured at level {kernels.level()} of the kernels")
    matrices = plain_matrices()
    plain_seconds(matrices, rows)
    ours = plain = math.inf
    for _ in range(_ROUNDS):
        ours = min(ours, step_seconds(engine, rows))
        plain = min(plain, *(plain_seconds(matrices, rows) for _ in range(_STEPS)))
    ratio = plain / ours
    print(f"{rows} rows at {kernels.level()}: {ratio:.2f} times as fast as plain JAX")
    assert ratio > floors[rows], (
        f"a step of {rows} rows takes {1e3 * ours:.2f} ms, plain JAX {1e3 * plain:.2f} ms:"
        f" {ratio:.2f} times as fast, and {2 * floors[rows]:.1f} times before"
    )
