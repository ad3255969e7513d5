"""Small random models and engines for tests of the engine."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from saxml.engine.beam import BeamOptions
from saxml.engine.decoders import SampleDecoder
from saxml.engine.engine import Engine
from saxml.engine.options import EngineOptions
from saxml.models import registry, sharding
from saxml.models.config import ModelConfig
from saxml.models.params import random_params

VOCAB = 97
STOP = 5
LLAMA = ModelConfig(
    family="llama",
    num_layers=2,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    hidden_dim=64,
    vocab_size=VOCAB,
    rotary_dim=8,
    rotary_base=1e4,
    rotary_style="halves",
    norm_eps=1e-5,
    tied_embeddings=True,
    combined_qkv=False,
    max_positions=128,
)
GPTJ = ModelConfig(
    family="gptj",
    num_layers=2,
    model_dim=32,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    hidden_dim=64,
    vocab_size=VOCAB,
    rotary_dim=4,
    rotary_base=1e4,
    rotary_style="pairs",
    norm_eps=1e-5,
    tied_embeddings=False,
    combined_qkv=True,
    max_positions=128,
)


def random_weights(config: ModelConfig, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Prepared operands, scaled up so that logits differ clearly."""
    declared = registry.parameters(config)
    places = {
        n: sharding.sharding(mesh, p.stacked_axes, p.stacked_shape) for n, p in declared.items()
    }
    made = random_params(declared, jax.random.key(3), jnp.dtype(jnp.float32), places)
    made = {n: w * 10 if declared[n].init_mean == 0 else w for n, w in made.items()}
    prepared: dict[str, jax.Array] = jax.jit(lambda p: registry.prepare(config, p))(made)
    return prepared


def options(**changed: object) -> EngineOptions:
    """Options for a tiny engine, some changed."""
    defaults: dict[str, object] = {
        "page_size": 4,
        "num_pages": 256,
        "max_model_len": 64,
        "max_rows": 16,
        "buckets": (1, 16, 32),
        "queue_capacity": 64,
        "top_k": 40,
        "num_candidates": 5,
        "stop_ids": (STOP,),
    }
    return EngineOptions(**{**defaults, **changed})  # type: ignore[arg-type]


def beams(*, min_steps: int, max_steps: int, beam_size: int = 3) -> BeamOptions:
    """A beam search that takes as many tokens of a beam as there are beams."""
    return BeamOptions(
        beam_size=beam_size,
        tokens_per_beam=beam_size,
        alpha=0.5,
        min_steps=min_steps,
        max_steps=max_steps,
        stop_ids=(STOP,),
        early_exit=False,
    )


@contextmanager
def running(
    config: ModelConfig, mesh_shape: tuple[int, ...] = (1, 1, 1), **changed: object
) -> Iterator[Engine]:
    """An engine that, when left, must have all its pages back."""
    mesh = sharding.make_mesh(mesh_shape, jax.devices())
    opts = options(**changed)
    products = registry.family(config).products(config)
    params = opts.backend.pack(random_weights(config, mesh), products)
    engine = Engine(config, params, opts, mesh, jnp.float32)
    try:
        yield engine
        assert engine.gauges().used_pages == 0
        engine.check_integrity()
    finally:
        engine.stop()


def prompts(count: int, seed: int = 0, longest: int = 40) -> list[np.ndarray]:
    """Random prompts of different lengths."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, VOCAB, rng.integers(1, longest + 1)).astype(np.int32) for _ in range(count)
    ]


def greedy(max_steps: int = 20) -> SampleDecoder:
    """One greedy sample."""
    return SampleDecoder(num_samples=1, max_steps=max_steps, stop_ids=(STOP,))
