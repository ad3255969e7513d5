"""Choosing tokens gives what Hugging Face's processors and generate() give, and log-probabilities
of prompts are those of Hugging Face's logits; make_sampling.py says what the numbers are."""

import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml.checkpoint import pax
from saxml.checkpoint.record import read_record
from saxml.engine import adjustments, choice, result
from saxml.engine.decoders import LogProbs, SampleDecoder, ScoreDecoder
from saxml.engine.engine import Engine
from saxml.engine.options import EngineOptions
from saxml.engine.sampling_params import SamplingParams
from saxml.models import registry, sharding
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

HERE = pathlib.Path(__file__).parent
MODELS = {
    "tiny_gptj": convert_gptj,
    "tiny_llama": convert_llama,
    "tiny_llama_tied": convert_llama,
}
NUMBERS = dict(np.load(HERE / "sampling.npz"))
LOGPROBS = 5


def options(vocab_size: int, **changed: object) -> EngineOptions:
    sizes: dict[str, object] = {
        "page_size": 4,
        "num_pages": 128,
        "max_model_len": 64,
        "max_rows": 4,
        "buckets": (8,),
        "queue_capacity": 16,
        "top_k": 0,
        "num_candidates": 0,
        "stop_ids": (0,),
        "max_logprobs": LOGPROBS,
        # Steps are not timed: chunks have always 8 tokens.
        "prefill_stretch": float("inf"),
    }
    return EngineOptions(**{**sizes, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "name"),
    [
        (SamplingParams(repetition_penalty=1.3), "repetition_1.3"),
        (SamplingParams(repetition_penalty=0.6), "repetition_0.6"),
        (SamplingParams(repetition_penalty=1.3, logit_bias={0: 0.0}), "biased"),
        (SamplingParams(min_steps=3), "barred"),
    ],
)
def test_changed_logits_are_those_of_the_processors(params: SamplingParams, name: str) -> None:
    logits, ids = NUMBERS["logits"], NUMBERS["ids"]
    if params.logit_bias:
        bias = dict(
            zip(NUMBERS["bias_tokens"].tolist(), NUMBERS["bias_values"].tolist(), strict=True)
        )
        params = SamplingParams(repetition_penalty=1.3, logit_bias=bias)
    changes = []
    for row, sequence in enumerate(ids):
        adjuster = adjustments.Adjuster(
            params,
            sequence[:10],
            num_samples=1,
            max_new_tokens=4,
            barred=(3, 7) if params.min_steps else (),
        )
        for token in sequence[10:].tolist():
            adjuster.add(0, token)
        changes.append((row, adjuster.changes(0)))
    found = jax.jit(adjustments.apply)(adjustments.pack(512, changes), logits)
    # One rounding more or less of float32.
    np.testing.assert_allclose(np.asarray(found), NUMBERS[name], rtol=1e-6)


@pytest.mark.parametrize("name", ["top_k_1", "top_k_7", "top_p_0.3", "top_p_0.9"])
@pytest.mark.parametrize("name_of_min_p", ["min_p_0.02", "min_p_0.3"])
def test_kept_tokens_are_those_of_the_warpers(name: str, name_of_min_p: str) -> None:
    """At temperature 1 a draw is one of the kept ones, and 2,000 draws see all that have a mass of
    1 % among them. A set is the same whether one or both of the warpers make it."""
    logits, draws = NUMBERS["logits"], 2000
    values = {"top_k": 0.0, "top_p": 1.0, "min_p": 0.0}
    for given in (name, name_of_min_p):
        key, _, value = given.rpartition("_")
        values[key] = float(value)
    params = SamplingParams(
        temperature=1.0,
        top_k=int(values["top_k"]),
        top_p=values["top_p"],
        min_p=values["min_p"],
    )
    kept = NUMBERS[name] & NUMBERS[name_of_min_p]
    choose = jax.jit(choice.choose, static_argnums=0)
    for row in range(len(logits)):
        entries = choice.Entries(
            params=jnp.broadcast_to(choice.row_params(params), (draws, choice.ROW_PARAMS)),
            target=jnp.zeros(draws, jnp.int32),
            sample=jnp.arange(draws, dtype=jnp.int32),
            position=jnp.ones(draws, jnp.int32),
            valid=jnp.int32(draws),
        )
        rows = jnp.broadcast_to(logits[row], (draws, logits.shape[1]))
        chosen = choose(options(50), rows, entries, adjustments.nothing(512))
        seen = set(np.asarray(chosen)[:, result.TOKEN].astype(int).tolist())
        mass = np.where(kept[row], np.exp(logits[row] - logits[row].max()), 0)
        mass /= mass.sum()
        assert seen <= set(np.flatnonzero(kept[row]).tolist())
        assert seen >= set(np.flatnonzero(mass > 0.01).tolist())


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Engine]]:
    folder = str(tmp_path_factory.mktemp(request.param))
    path = MODELS[request.param](str(HERE / request.param), folder)
    _, record = read_record(path)
    config = record.config
    weights = pax.restore(path, registry.parameters(config), dtype=jnp.float32)
    prepared = registry.prepare(config, weights)
    mesh = sharding.make_mesh((1, 1, 1), jax.devices()[:1])
    engine = Engine(config, prepared, options(config.vocab_size), mesh, jnp.float32)
    yield request.param, engine
    engine.check_integrity()
    engine.stop()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def test_prompt_log_probabilities_and_score_are_those_of_the_logits(
    model: tuple[str, Engine],
) -> None:
    name, engine = model
    golden = np.load(HERE / name / "golden.npz")
    for index in (1, 2):
        prompt = golden[f"prompt_{index}"]
        wanted = log_softmax(golden[f"logits_{index}"])[:-1]
        # The second time all of it lies in the prefix cache.
        for cache_read in (True, True, False):
            request = engine.submit(
                prompt[:-1], ScoreDecoder(prompt[1:], logprobs=LOGPROBS), cache_read=cache_read
            )
            found = request.future.result(timeout=120)[0]
            assert isinstance(found.logprobs, LogProbs)
            own = wanted[np.arange(len(wanted)), prompt[1:]]
            # 1e-4: what the logits agree to.
            np.testing.assert_allclose(found.logprobs.chosen, own, atol=2e-4)
            assert found.score == pytest.approx(own.sum(), abs=1e-3)
            best = np.argsort(-wanted, axis=1, kind="stable")[:, :LOGPROBS]
            np.testing.assert_array_equal(found.logprobs.best_ids, best)
            np.testing.assert_allclose(
                found.logprobs.best, np.take_along_axis(wanted, best, 1), atol=2e-4
            )


def test_greedy_ids_with_penalty_bias_and_barred_stop_are_those_of_generate(
    model: tuple[str, Engine],
) -> None:
    name, engine = model
    golden = np.load(HERE / name / "golden.npz")
    requests, wanted = [], []
    for index in range(3):
        token, bias = NUMBERS[f"{name}_{index}_bias"].tolist()
        stop = int(NUMBERS[f"{name}_{index}_stop"])
        params = SamplingParams(
            repetition_penalty=float(NUMBERS[f"{name}_{index}_penalty"]),
            logit_bias={int(token): bias},
            min_steps=4,
        )
        decoder = SampleDecoder(num_samples=1, max_steps=16, stop_ids=(stop,))
        requests.append(engine.submit(golden[f"prompt_{index}"], decoder, sampling=params))
        wanted.append(NUMBERS[f"{name}_{index}_ids"].tolist())
    assert [r.future.result(timeout=120)[0].tokens.tolist() for r in requests] == wanted
