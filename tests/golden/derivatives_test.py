"""Hidden states, scores and gradients of the tiny checkpoints are those of Hugging Face and
torch."""

import math
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saxml.checkpoint import pax
from saxml.checkpoint.record import read_record
from saxml.engine import gradient
from saxml.engine.decoders import ScoreDecoder
from saxml.engine.embedding import POOLINGS, EmbedDecoder
from saxml.engine.engine import Engine
from saxml.engine.gradient import Differentiator, GradientOptions
from saxml.engine.options import EngineOptions
from saxml.models import registry, sharding
from saxml.models.config import ModelConfig
from tools.convert.gptj import convert_gptj
from tools.convert.llama import convert_llama

HERE = pathlib.Path(__file__).parent
LAYER = "params/lm/transformer/x_layers_{}/"
HEADS, EACH = 4, 8


def transposed(w: np.ndarray) -> np.ndarray:
    return w.T


def by_heads(w: np.ndarray) -> np.ndarray:
    """[H * E, D] -> [D, H, E]."""
    return w.T.reshape(w.shape[1], -1, EACH)


# SAX's name: Hugging Face's name or names, and how its layout follows from theirs.
WEIGHTS: dict[str, dict[str, tuple[list[str], Callable[..., np.ndarray]]]] = {
    "tiny_gptj": {
        "params/lm/final_ln/scale": (["transformer.ln_f.weight"], np.asarray),
        "params/lm/final_ln/bias": (["transformer.ln_f.bias"], np.asarray),
        "params/lm/embedding_lookup/emb_var": (["transformer.wte.weight"], np.asarray),
        "params/lm/softmax/logits_ffn/bias/b": (["lm_head.bias"], np.asarray),
        LAYER.format(1) + "self_attention/combined_qkv/w": (
            [f"transformer.h.1.attn.{n}_proj.weight" for n in "qkv"],
            lambda *qkv: np.stack([by_heads(w) for w in qkv]),
        ),
        LAYER.format(2) + "self_attention/post/w": (
            ["transformer.h.2.attn.out_proj.weight"],
            lambda w: w.reshape(w.shape[0], HEADS, EACH),
        ),
    },
    "tiny_llama": {
        "params/lm/final_ln/scale": (["model.norm.weight"], np.asarray),
        "params/lm/embedding_lookup/emb_var": (["model.embed_tokens.weight"], np.asarray),
        LAYER.format(1) + "self_attention/key/w": (
            ["model.layers.1.self_attn.k_proj.weight"],
            by_heads,
        ),
        LAYER.format(2) + "ff_layer/ffn_layer2/linear/w": (
            ["model.layers.2.mlp.down_proj.weight"],
            transposed,
        ),
    },
    "tiny_llama_tied": {
        "params/lm/final_ln/scale": (["model.norm.weight"], np.asarray),
        # The head, which is the embedding too.
        "params/lm/softmax/logits_ffn/linear/w": (["model.embed_tokens.weight"], transposed),
    },
}


class Model:
    """A converted checkpoint, its weights and what torch says of it."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        convert = convert_gptj if name == "tiny_gptj" else convert_llama
        path = convert(str(HERE / name), str(folder))
        self.name = name
        self.golden = np.load(HERE / name / "derivatives.npz")
        self.config: ModelConfig = read_record(path)[1].config
        restored = pax.restore(path, registry.parameters(self.config), dtype=jnp.float32)
        self.weights = registry.prepare(self.config, restored)
        self.mesh = sharding.make_mesh((1, 1, 1), jax.devices())
        self.targets = self.golden["suffix"]
        self.inputs = np.concatenate([self.golden["prefix"], self.targets[:-1]])

    def differentiate(self, longest: int, **changed: object) -> Differentiator:
        names = tuple(WEIGHTS[self.name])
        options: dict[str, object] = {"inputs": ("embeddings",), "weights": names, **changed}
        return Differentiator(
            self.config,
            self.weights,
            GradientOptions(longest=longest, **options),  # type: ignore[arg-type]
            self.mesh,
        )


@pytest.fixture(scope="module", params=WEIGHTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(request.param, tmp_path_factory.mktemp("pax"))


# The longer one is mostly padding: two tiles of queries, two blocks of positions with logits.
@pytest.mark.parametrize("longest", [22, 80])
def test_score_and_gradients_are_those_of_torch(
    model: Model, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient, "_SMALLEST", longest)
    differentiator = model.differentiate(longest)
    found = differentiator.submit(model.inputs, model.targets, math.inf).result(60)
    differentiator.stop()
    assert found.score == pytest.approx(float(model.golden["score"]), abs=1e-3)
    wanted = {"gradients/inputs/embeddings": model.golden["inputs"]}
    for name, (theirs, layout) in WEIGHTS[model.name].items():
        wanted["gradients/mdl_vars/" + name] = layout(*(model.golden[n] for n in theirs))
    assert sorted(found.tensors) == sorted(wanted)
    for name, tensor in wanted.items():
        # Sums of some hundred products, in another order, against the largest derivative.
        tolerance = 1e-4 * np.abs(tensor).max()
        np.testing.assert_allclose(found.tensors[name], tensor, atol=tolerance, err_msg=name)


def test_gradient_of_the_geometric_mean_is_that_of_its_formula(model: Model) -> None:
    """exp(s / n) has the derivative exp(s / n) / n * ds."""
    differentiator = model.differentiate(40, weights=(), geometric_mean=True)
    found = differentiator.submit(model.inputs, model.targets, math.inf).result(60)
    differentiator.stop()
    n = len(model.targets)
    mean = math.exp(float(model.golden["score"]) / n)
    assert found.score == pytest.approx(mean, rel=1e-4)
    wanted = mean / n * model.golden["inputs"]
    tolerance = 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(found.tensors["gradients/inputs/embeddings"], wanted, atol=tolerance)


def test_embeddings_and_scores_of_the_engine_are_those_of_hugging_face(model: Model) -> None:
    options = EngineOptions(
        page_size=4,
        num_pages=64,
        max_model_len=64,
        max_rows=4,
        buckets=(4, 8),
        queue_capacity=8,
        top_k=1,
        num_candidates=0,
        stop_ids=(1,),
    )
    engine = Engine(model.config, model.weights, options, model.mesh, jnp.float32)
    whole = np.append(model.inputs, model.targets[-1:])
    scored = engine.submit(model.inputs, ScoreDecoder(model.targets))
    for pooling in POOLINGS:
        decoder = EmbedDecoder(len(whole), pooling)
        engine.submit(whole, decoder).future.result(60)
        hidden = model.golden["hidden"]
        wanted = hidden[-1] if pooling == "last" else hidden.mean(0)
        # 1e-4: as the logits of tiny_models_test.
        np.testing.assert_allclose(decoder.embedding, wanted, rtol=1e-5, atol=1e-4)
    (hypothesis,) = scored.future.result(60)
    assert hypothesis.score == pytest.approx(float(model.golden["score"]), abs=1e-3)
    engine.check_integrity()
    engine.stop()
