"""Gradient of a suffix's score with respect to the embedded inputs and to weights.

The score is log p(suffix | prefix), or the geometric mean of the suffix' probabilities where the
configuration scores so. It is computed densely, without pages: one program for each of a few
lengths, all compiled in the constructor.

Streams that run beside it: gradients have a thread of their own, which has one program in flight at
any time and dispatches the next one when it has that one's result. On a device that runs programs
in turn, a step of the engine therefore waits for one gradient at most; where programs run side by
side, as on CPUs, the two share the cores. Those that wait do so in the order of their arrival; one
that is cancelled or late is not run, one that runs is run to its end and its result dropped.
"""

import concurrent.futures
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from saxml.common import errors
from saxml.engine import tensor_names
from saxml.engine.decoders import Floats, Ints
from saxml.engine.tensor_names import EMBEDDINGS, Weight
from saxml.models import registry, sharding
from saxml.models.config import ModelConfig
from saxml.ops import attention

# Values that one answer may carry, 8 bytes each.
MAX_VALUES = 1 << 24
_LOGITS_BLOCK = 64  # positions whose logits are held at once
_SMALLEST = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Gradient:
    """Score of a suffix, and its gradients by name: SAX's names, f32 of the tensor's shape."""

    score: float
    tensors: Mapping[str, Floats]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GradientOptions:
    """What is differentiated: GRADIENT_WRT_INPUT_TENSOR_NAMES, GRADIENT_WRT_MDL_VAR_TENSOR_NAMES
    and SCORING_USE_GEOMEAN_PROB_SCORE of the configuration; longest in tokens, prefix and suffix
    together."""

    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    longest: int
    geometric_mean: bool = False


class Differentiator:
    """Thread-safe. Takes operands of plain JAX: registry.prepare must be linear in the
    weights, and `forward` one that can be differentiated."""

    def __init__(
        self,
        config: ModelConfig,
        params: Mapping[str, jax.Array],
        options: GradientOptions,
        mesh: Mesh,
        *,
        progress: Callable[[str], None] = lambda message: None,
    ) -> None:
        """params: what registry.prepare gives. Raises what `check` raises."""
        self._config = config
        self._params = dict(params)
        self._options = options
        self._weights = check(config, options)
        self._programs = {
            length: self._compile(length, mesh, progress) for length in lengths(options.longest)
        }
        self._stopping = False
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="gradient")

    def submit(
        self, inputs: Ints, targets: Ints, deadline: float
    ) -> concurrent.futures.Future[Gradient]:
        """Queues a request; any thread. The last len(targets) of inputs i32[n] predict the targets;
        deadline on time.monotonic's clock. The future may be cancelled while it waits.

        Raises InvalidArgumentError for more tokens than fit, UnavailableError after `stop`.
        """
        if len(inputs) > self._options.longest:
            raise errors.InvalidArgumentError(
                f"prefix and suffix have {len(inputs):,} tokens; a gradient takes at most"
                f" {self._options.longest:,} (INPUT_SEQ_LEN and SUFFIX_SEQ_LEN)"
            )
        try:
            return self._thread.submit(self._run, inputs, targets, deadline)
        except RuntimeError:
            raise errors.UnavailableError("the model is being unloaded") from None

    def differentiate(
        self,
        inputs: Ints,
        targets: Ints,
        deadline: float,
        on_cancel: Callable[[Callable[[], None]], None],
    ) -> Gradient:
        """Waits for what `submit` promises. on_cancel is told how to give the request up.

        Raises what `submit` raises, DeadlineExceededError, CancelledError, and UnavailableError
        when the model is unloaded meanwhile.
        """
        future = self.submit(inputs, targets, deadline)

        def cancel() -> None:
            future.cancel()

        on_cancel(cancel)
        try:
            return future.result(None if math.isinf(deadline) else deadline - time.monotonic())
        except TimeoutError:
            future.cancel()
            raise errors.DeadlineExceededError("deadline exceeded") from None
        except concurrent.futures.CancelledError:
            if self._stopping:
                raise errors.UnavailableError("the model is being unloaded") from None
            raise errors.CancelledError("cancelled by the client") from None

    def stop(self) -> None:
        """Waits for the one that runs; those that wait are cancelled."""
        self._stopping = True
        self._thread.shutdown(cancel_futures=True)
        self._params.clear()
        self._programs.clear()

    def _run(self, inputs: Ints, targets: Ints, deadline: float) -> Gradient:
        if time.monotonic() > deadline:
            raise errors.DeadlineExceededError("deadline exceeded")
        length = next(n for n in self._programs if n >= len(inputs))
        tokens, wanted = np.zeros(length, np.int32), np.full(length, -1, np.int32)
        tokens[: len(inputs)] = inputs
        wanted[len(inputs) - len(targets) : len(inputs)] = targets
        score, found = self._programs[length](self._params, tokens, wanted)
        tensors = {name: np.asarray(value, np.float32) for name, value in found.items()}
        embeddings = tensor_names.INPUT_PREFIX + EMBEDDINGS
        if embeddings in tensors:
            tensors[embeddings] = tensors[embeddings][: len(inputs)]
        if not all(np.isfinite(t).all() for t in (np.asarray(score), *tensors.values())):
            raise errors.InternalError("the score or its gradient is not finite")
        return Gradient(float(score), tensors)

    def _compile(self, length: int, mesh: Mesh, progress: Callable[[str], None]):  # type: ignore[no-untyped-def]
        start = time.monotonic()
        replicated = sharding.replicated(mesh)
        tokens = jax.ShapeDtypeStruct((length,), np.int32, sharding=replicated)
        program = (
            jax.jit(self._program, out_shardings=replicated)
            .lower(self._params, tokens, tokens)
            .compile()
        )
        progress(f"compiled the {length}-token gradient in {time.monotonic() - start:.1f} s")
        return program

    def _program(
        self, params: Mapping[str, jax.Array], tokens: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """tokens, targets i32[T], targets -1 where none is -> score f32, gradients by name."""
        family = registry.family(self._config)
        prepare, operands = self._prepare()
        chosen = {w.declared for w in self._weights}
        moved = tensor_names.made_from(prepare, operands, chosen)
        varied = {name: params[name] for name in moved}
        shift = jnp.zeros((len(tokens), self._config.model_dim), params["embedding"].dtype)

        def score(varied: Mapping[str, jax.Array], shift: jax.Array) -> jax.Array:
            p = {**params, **varied}
            x = family.embed(p, tokens) + shift
            attend = attention.by_heads(_attend, self._config.heads)
            hidden, _ = family.forward(self._config, p, x, jnp.arange(len(tokens)), attend, ())
            total = self._log_probability(p, hidden, targets)
            if self._options.geometric_mean:
                return jnp.exp(total / jnp.maximum((targets >= 0).sum(), 1))
            return total

        argnums = (0, 1) if self._options.inputs else (0,)
        value, gradients = jax.value_and_grad(score, argnums)(varied, shift)
        found = {}
        if self._options.inputs:
            found[tensor_names.INPUT_PREFIX + EMBEDDINGS] = gradients[1]
        if moved:
            constant = {n: jnp.zeros(o.shape, o.dtype) for n, o in operands.items()}

            def linear(some: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
                prepared = prepare({**constant, **some})
                return {name: prepared[name] for name in moved}

            (restored,) = jax.linear_transpose(linear, {n: operands[n] for n in chosen})(
                gradients[0]
            )
            found |= {
                tensor_names.WEIGHT_PREFIX + w.name: _part(restored[w.declared], w)
                for w in self._weights
            }
        return value, found

    def _prepare(self) -> tuple[Callable[[Mapping[str, Any]], dict[str, jax.Array]], Any]:
        """registry.prepare, which is linear, and the declared weights as it takes them."""
        c = self._config
        dtype = self._params["embedding"].dtype
        operands = {
            name: jax.ShapeDtypeStruct(param.stacked_shape, dtype)
            for name, param in registry.parameters(c).items()
        }
        return lambda p: registry.prepare(c, p), operands

    def _log_probability(
        self, p: Mapping[str, jax.Array], hidden: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Sum of log p of the targets, a block of positions after another."""
        family, T = registry.family(self._config), len(targets)
        block = min(T, _LOGITS_BLOCK)
        hidden = jnp.pad(hidden, ((0, -T % block), (0, 0))).reshape(-1, block, hidden.shape[1])
        targets = jnp.pad(targets, (0, -T % block), constant_values=-1).reshape(-1, block)

        @jax.checkpoint
        def add(total: jax.Array, piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            hidden, targets = piece
            logp = jax.nn.log_softmax(family.logits(self._config, p, hidden))
            chosen = jnp.take_along_axis(logp, jnp.maximum(targets, 0)[:, None], 1)[:, 0]
            return total + jnp.where(targets >= 0, chosen, 0).sum(), None

        total: jax.Array = jax.lax.scan(add, jnp.float32(0), (hidden, targets))[0]
        return total


def check(config: ModelConfig, options: GradientOptions) -> list[Weight]:
    """The weights that are named. Raises InvalidArgumentError for a name that the model does not
    have, and where an answer would be too large."""
    tensor_names.check_inputs(options.inputs)
    found = tensor_names.find_weights(registry.parameters(config), options.weights)
    sizes = {w.name: math.prod(w.shape) for w in found}
    if options.inputs:
        sizes[EMBEDDINGS] = options.longest * config.model_dim
    if sum(sizes.values()) > MAX_VALUES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise errors.InvalidArgumentError(
            f"a gradient would have {sum(sizes.values()):,} values; an answer carries at most"
            f" {MAX_VALUES:,}. Take {largest} ({sizes[largest]:,}) off"
            " GRADIENT_WRT_MDL_VAR_TENSOR_NAMES or GRADIENT_WRT_INPUT_TENSOR_NAMES"
        )
    return found


def lengths(longest: int) -> list[int]:
    """Lengths that programs are compiled for: powers of four, and the longest."""
    found = [_SMALLEST]
    while found[-1] * 4 < longest:
        found.append(found[-1] * 4)
    return [n for n in found if n < longest] + [longest]


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, cache: tuple[()], layer: jax.Array
) -> tuple[jax.Array, tuple[()]]:
    return attention.causal_attention(q, k, v), cache


def _part(stacked: jax.Array, weight: Weight) -> jax.Array:
    return stacked if weight.layer is None else stacked[weight.layer]
