"""Gradients of scores on tiny random models: finite differences, names, and one program at a
time."""

import concurrent.futures
import math
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from saxml.common import errors
from saxml.engine import gradient, tensor_names
from saxml.engine.gradient import Differentiator, GradientOptions
from saxml.models import registry, sharding
from saxml.models.config import ModelConfig
from tests.unit.engine import tiny

LONGEST = 40
NAMES = {
    "gptj": (
        "params/lm/transformer/x_layers_0/self_attention/post/w",
        "params/lm/transformer/x_layers_1/ff_layer/ffn_layer1/bias/b",
        "params/lm/softmax/logits_ffn/bias/b",
    ),
    "llama": (
        "params/lm/transformer/x_layers_0/self_attention/value/w",
        "params/lm/transformer/x_layers_1/layer_norm/scale",
        "params/lm/softmax/logits_ffn/linear/w",
    ),
}


def mesh() -> jax.sharding.Mesh:
    return sharding.make_mesh((1, 1, 1), jax.devices())


def options(config: ModelConfig, **changed: object) -> GradientOptions:
    fields = {"inputs": ("embeddings",), "weights": NAMES[config.family], "longest": LONGEST}
    return GradientOptions(**{**fields, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[tiny.GPTJ, tiny.LLAMA], ids=lambda c: c.family)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def differentiator(config: ModelConfig) -> Iterator[Differentiator]:
    weights = tiny.random_weights(config, mesh())
    differentiator = Differentiator(config, weights, options(config), mesh())
    yield differentiator
    differentiator.stop()


def request(seed: int, suffix: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and the targets of the last ones."""
    tokens = np.random.default_rng(seed).integers(0, tiny.VOCAB, 24).astype(np.int32)
    return tokens[:-1], tokens[-suffix:]


def test_gradients_are_those_of_finite_differences(
    config: ModelConfig, differentiator: Differentiator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along the gradient itself, central differences of the score where a tensor moves."""
    inputs, targets = request(7)
    found = differentiator.submit(inputs, targets, math.inf).result(60)
    declared = registry.parameters(config)
    prepare = jax.jit(lambda p: registry.prepare(config, p))
    kept = dict(differentiator._params)

    def score(moved: dict[str, jax.Array]) -> float:
        monkeypatch.setattr(differentiator, "_params", moved)
        return differentiator.submit(inputs, targets, math.inf).result(60).score

    for name in NAMES[config.family]:
        tensor = found.tensors["gradients/mdl_vars/" + name]
        (weight,) = tensor_names.find_weights(declared, [name])
        length = float(np.linalg.norm(tensor))
        step = 2e-2
        direction = {n: np.zeros(p.stacked_shape, np.float32) for n, p in declared.items()}
        place = ... if weight.layer is None else weight.layer
        direction[weight.declared][place] = tensor / length
        change = prepare(direction)  # linear
        ends = [
            score({n: w + sign * step * change[n] for n, w in kept.items()}) for sign in (1, -1)
        ]
        # 2 %: the third derivative, and float32 scores that are known to 1e-5 of some tens.
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(length, rel=0.02), name


def test_embedded_inputs_have_one_row_a_token_and_the_last_target_none(
    config: ModelConfig, differentiator: Differentiator
) -> None:
    inputs, targets = request(8)
    found = differentiator.submit(inputs, targets, math.inf).result(60)
    rows = found.tensors["gradients/inputs/embeddings"]
    assert rows.shape == (len(inputs), config.model_dim)
    assert np.abs(rows).max(axis=1).min() > 0


def test_nothing_compiles_for_any_length(differentiator: Differentiator) -> None:
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for length in (1, 17, LONGEST):
        tokens = np.ones(length, np.int32)
        differentiator.submit(tokens, tokens[-1:], math.inf).result(60)
    assert compiled == []


def test_one_program_runs_at_a_time_and_streams_go_on(
    config: ModelConfig, differentiator: Differentiator, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, running, most, ends = differentiator._programs, 0, 0, []
    with tiny.running(config, max_rows=1, buckets=(1, 4), num_candidates=0, top_k=1) as engine:

        def watched(*operands: object) -> object:
            nonlocal running, most
            running += 1
            most = max(most, running)
            result = jax.block_until_ready(programs[LONGEST](*operands))
            running -= 1
            ends.append(engine.steps)
            return result

        monkeypatch.setattr(differentiator, "_programs", {LONGEST: watched})
        streams = [engine.submit(np.array([1], np.int32), tiny.greedy(60))]
        inputs, targets = request(9)
        futures = [differentiator.submit(inputs, targets, math.inf) for _ in range(12)]
        while not all(f.done() for f in futures):
            if streams[-1].future.done():
                streams.append(engine.submit(np.array([1], np.int32), tiny.greedy(60)))
            time.sleep(0.001)
        assert most == 1
        assert ends[-1] > ends[0], "the engine took steps between gradients"
        for stream in streams:
            stream.future.result(60)


def test_late_cancelled_and_stopped_ones_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    gate = threading.Event()

    def slow(*operands: object) -> tuple[np.float32, dict[str, np.ndarray]]:
        ran.append(1)
        gate.wait(60)
        return np.float32(-1), {}

    monkeypatch.setattr(Differentiator, "_compile", lambda *_: slow)
    differentiator = Differentiator(tiny.LLAMA, {}, options(tiny.LLAMA), mesh())
    inputs, targets = request(10)
    first = differentiator.submit(inputs, targets, math.inf)
    while not ran:
        time.sleep(0.001)
    late = differentiator.submit(inputs, targets, time.monotonic())
    cancelled = differentiator.submit(inputs, targets, math.inf)
    assert cancelled.cancel()
    assert not first.cancel(), "it runs to its end"
    gate.set()
    assert first.result(60).score == -1
    with pytest.raises(errors.DeadlineExceededError):
        late.result(60)
    assert len(ran) == 1
    gate.clear()
    running, waiting = (differentiator.submit(inputs, targets, math.inf) for _ in range(2))
    while len(ran) < 2:
        time.sleep(0.001)
    threading.Timer(0.05, gate.set).start()
    differentiator.stop()
    assert running.result(60).score == -1
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.result(60)
    with pytest.raises(errors.UnavailableError, match="unloaded"):
        differentiator.submit(inputs, targets, math.inf)


def test_score_that_is_no_number_fails_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Differentiator, "_compile", lambda *_: lambda *_: (np.float32("nan"), {}))
    differentiator = Differentiator(tiny.LLAMA, {}, options(tiny.LLAMA), mesh())
    with pytest.raises(errors.InternalError, match="not finite"):
        differentiator.submit(*request(11), math.inf).result(60)
    differentiator.stop()


def test_too_many_tokens_are_refused_with_both_numbers(differentiator: Differentiator) -> None:
    tokens = np.ones(LONGEST + 1, np.int32)
    with pytest.raises(errors.InvalidArgumentError, match="41 tokens; a gradient takes at most 40"):
        differentiator.submit(tokens, tokens[-1:], math.inf)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": ("params/lm/final_ln/scal",)}, "no 'params/lm/final_ln/scal'.*final_ln/scale"),
        ({"weights": ("__class__",)}, "no '__class__'"),
        ({"inputs": ("ids",)}, "'ids' is not 'embeddings'"),
        (
            {"longest": 1 << 20},
            r"33,\d{3},\d{3} values; an answer carries at most 16,777,216\. Take emb",
        ),
    ],
)
def test_bad_names_and_sizes_are_refused_before_anything_compiles(
    config: ModelConfig, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        Differentiator(config, {}, options(config, **changed), mesh())


@pytest.mark.parametrize(
    ("longest", "wanted"),
    [(10, [10]), (64, [64]), (65, [64, 65]), (2047, [64, 256, 1024, 2047])],
)
def test_lengths_end_with_the_longest(longest: int, wanted: list[int]) -> None:
    assert gradient.lengths(longest) == wanted
