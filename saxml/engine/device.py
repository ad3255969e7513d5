"""What an engine has on the device: the parameters, the pages, and one compiled step for each
bucket."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from saxml import native
from saxml.engine import step as step_lib
from saxml.engine.options import EngineOptions
from saxml.models import sharding
from saxml.models.config import ModelConfig

Progress = Callable[[str], None]
Step = Callable[..., Any]  # see step.make_step
# A step is timed so often, or until so much time has gone.
_MEASURED_STEPS = 5
_MEASURED_S = 0.5


class Device:
    """Used by one thread at a time. Everything is compiled in the constructor."""

    def __init__(
        self,
        config: ModelConfig,
        options: EngineOptions,
        params: Mapping[str, jax.Array],
        offsets: Mapping[int, step_lib.Offsets],
        no_changes: Mapping[int, jax.Array],
        mesh: Mesh,
        dtype: jax.typing.DTypeLike,
        progress: Progress,
    ) -> None:
        """params: what registry.prepare gives, packed by options.backend; dtype: of the pages
        in plain JAX. offsets: where things lie in the plans of a bucket. no_changes: of logits, see
        saxml.engine.adjustments."""
        c, self._options = config, options
        self._params = dict(params)
        self._offsets = offsets
        self._no_changes = no_changes
        # The tokens that the last step chose.
        self._chosen = jax.device_put(
            np.zeros(options.max_rows, np.int32), sharding.replicated(mesh)
        )
        backend = options.backend
        sizes = (c.num_layers, options.num_pages, options.page_size, c.heads)
        place = sharding.sharding(mesh, backend.page_axes(), backend.page_shape(*sizes))
        # Keys and values, as the backend keeps them; None: released.
        self._pages: jax.Array | None = jax.jit(
            lambda: backend.make_pages(*sizes, dtype), out_shardings=place
        )()
        # Takes seconds for some GiB, as compiling does.
        settling = threading.Thread(target=backend.settle, args=(self._pages,))
        settling.start()
        self.steps: dict[int, Step] = {}
        replicated = sharding.replicated(mesh)
        for bucket in options.buckets:
            start = time.monotonic()
            step = step_lib.make_step(config, options, bucket, offsets[bucket])
            packed = jax.ShapeDtypeStruct(
                (_length(offsets[bucket]),), np.int32, sharding=replicated
            )
            jitted = jax.jit(
                step,
                donate_argnums=1,
                out_shardings=(replicated, replicated, replicated, place),
            )
            self.steps[bucket] = jitted.lower(
                self._params, self._pages, packed, no_changes[bucket], self._chosen
            ).compile()
            progress(f"compiled the {bucket}-token step in {time.monotonic() - start:.1f} s")
        settling.join()

    def run(
        self, plan: native.StepPlan, changes: np.ndarray | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Dispatches a step: (result f32[N, width], hidden f[T, D]), see step.make_step."""
        return self._run(plan.bucket, plan.packed, changes)

    def _run(
        self, bucket: int, packed: np.ndarray, changes: np.ndarray | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        found, hidden, self._chosen, self._pages = self.steps[bucket](
            self._params, self._pages, packed, changes, self._chosen
        )
        return found, hidden

    def measure(self) -> list[float]:
        """Seconds of a step of each bucket: one without rows, whose products are those of a full
        one."""
        return [self._measure(bucket) for bucket in self._options.buckets]

    def _measure(self, bucket: int) -> float:
        packed = np.zeros(_length(self._offsets[bucket]), np.int32)
        # Past all pages: nothing is written.
        first, count = self._offsets[bucket]["slots"]
        packed[first : first + count] = self._options.num_pages * self._options.page_size
        packed[self._offsets[bucket]["header"][0]] = bucket  # tokens, of no row
        took: list[float] = []
        while len(took) < _MEASURED_STEPS and sum(took) < _MEASURED_S:
            start = time.monotonic()
            found, _ = self._run(bucket, packed, self._no_changes[bucket])
            np.asarray(found)
            took.append(time.monotonic() - start)
        return min(took)

    def release(self) -> None:
        """Gives the memory back; nothing can be run any more."""
        self._pages = None
        self._params.clear()


def _length(offsets: step_lib.Offsets) -> int:
    """Words of a packed plan."""
    return max(first + count for first, count in offsets.values())
