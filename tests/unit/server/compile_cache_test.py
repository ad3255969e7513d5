"""What is compiled is found again."""

import collections
import pathlib
import time
from collections.abc import Iterator

import jax
import pytest
from jax import monitoring
from jax.experimental.compilation_cache import compilation_cache

from saxml.common import errors
from saxml.ops.backend import Backend
from saxml.server import compile_cache
from tests.unit.engine import tiny

_KEPT = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    """JAX's, as it was before."""
    kept = {name: jax.config.values[name] for name in _KEPT}
    compilation_cache.reset_cache()
    yield
    for name, value in kept.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def start(counts: collections.Counter[str]) -> float:
    """CPU seconds that an engine on the kernels takes to start, and greedy tokens come of it."""
    jax.clear_caches()
    counts.clear()
    before = time.process_time()
    with tiny.running(tiny.GPTJ, page_size=16, backend=Backend("float32")) as engine:
        took = time.process_time() - before
        (answer,) = engine.submit(tiny.prompts(1)[0], tiny.greedy(4)).future.result(60)
        assert len(answer.tokens) > 0
    return took


def test_a_restart_compiles_no_step_that_calls_the_kernels(tmp_path: pathlib.Path) -> None:
    counts: collections.Counter[str] = collections.Counter()

    def count(event: str, **kwargs: str | int) -> None:
        counts[event] += 1

    monitoring.register_event_listener(count)
    compile_cache.use(str(tmp_path / "new" / "folder"))
    # Else what compiles in no time on a fast machine would not be kept, and be missed.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    first = start(counts)
    missed = counts["/jax/compilation_cache/cache_misses"]
    again = start(counts)
    assert missed >= len(tiny.options().buckets)
    assert counts["/jax/compilation_cache/cache_misses"] == 0
    assert counts["/jax/compilation_cache/cache_hits"] >= missed
    # The weights are made, and programs traced, both times.
    assert again < 0.7 * first


def test_the_folder_is_bounded(tmp_path: pathlib.Path) -> None:
    compile_cache.use(str(tmp_path))
    assert jax.config.values["jax_compilation_cache_max_size"] == compile_cache.MAX_BYTES
    jax.config.update("jax_compilation_cache_max_size", 50_000)
    compile_cache.use(str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for size in range(1, 40):
        jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((size, size)))
    kept = [file for file in tmp_path.iterdir() if file.name.endswith("-cache")]
    assert kept
    assert sum(file.stat().st_size for file in kept) <= 50_000


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(errors.FailedPreconditionError, match="--jax_cache_dir /proc/none cannot"):
        compile_cache.use("/proc/none")
