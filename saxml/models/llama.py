"""The Llama family: RMSNorm before attention and before a SiLU-gated feed-forward, rotary on whole
heads, no biases.

Touvron et al. 2023; grouped key-value heads from Llama 2 on. SmolLM2 ties the output head to the
embedding.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from saxml.models import layers
from saxml.models.config import ModelConfig
from saxml.models.params import Param
from saxml.ops import linear
from saxml.ops.attention import Attend, Cache

LAYER = "lm.transformer.x_layers_{layer}."
PER_LAYER = ("norm.scale", "ff_norm.scale", "q", "k", "v", "out", "gate", "up", "down")


def parameters(c: ModelConfig) -> dict[str, Param]:
    """Declared weights by run-time name."""
    D, H, K, E = c.model_dim, c.num_heads, c.num_kv_heads, c.head_dim
    F, V, L = c.hidden_dim, c.vocab_size, c.num_layers
    declared = {
        "head.w": Param("lm.softmax.logits_ffn.linear.w", (D, V), ("embed", "vocab")),
        "final_norm.scale": Param("lm.final_ln.scale", (D,), ("embed",), init_scale=0, init_mean=1),
        "norm.scale": Param(LAYER + "layer_norm.scale", (D,), ("embed",), L, 0, 1),
        "out": Param(LAYER + "self_attention.post.w", (D, H, E), ("embed", "heads", "head_dim"), L),
        "ff_norm.scale": Param(LAYER + "ff_layer.layer_norm.scale", (D,), ("embed",), L, 0, 1),
        "gate": Param(LAYER + "ff_layer.ffn_layer1_gate.linear.w", (D, F), ("embed", "mlp"), L),
        "up": Param(LAYER + "ff_layer.ffn_layer1.linear.w", (D, F), ("embed", "mlp"), L),
        "down": Param(LAYER + "ff_layer.ffn_layer2.linear.w", (F, D), ("mlp", "embed"), L),
    }
    if not c.tied_embeddings:
        declared["embedding"] = Param("lm.embedding_lookup.emb_var", (V, D), ("vocab", "embed"))
    if c.combined_qkv:
        declared["qkv"] = Param(
            LAYER + "self_attention.combined_qkv.w",
            (3, D, H, E),
            (None, "embed", "heads", "head_dim"),
            L,
        )
    else:
        for name, heads, axis in (
            ("query", H, "heads"),
            ("key", K, "kv_heads"),
            ("value", K, "kv_heads"),
        ):
            declared[name] = Param(
                f"{LAYER}self_attention.{name}.w", (D, heads, E), ("embed", axis, "head_dim"), L
            )
    return declared


def prepare(c: ModelConfig, p: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Restored arrays -> the operands that `forward` reads; run once at load."""
    L, D, E = c.num_layers, c.model_dim, c.head_dim
    if c.combined_qkv:
        q, k, v = (p["qkv"][:, i].reshape(L, D, -1) for i in range(3))
    else:
        q, k, v = (p[n].reshape(L, D, -1) for n in ("query", "key", "value"))
    out = jnp.transpose(p["out"], (0, 2, 3, 1)).reshape(L, c.num_heads * E, D)
    matrices = {"q": q, "k": k, "v": v, "out": out}
    matrices |= {n: p[n] for n in ("gate", "up", "down")}
    prepared = {name: linear.prepare(w) for name, w in matrices.items()}
    prepared |= {n: p[n] for n in ("norm.scale", "ff_norm.scale", "final_norm.scale", "head.w")}
    prepared["embedding"] = p["head.w"].T if c.tied_embeddings else p["embedding"]
    return prepared


def embed(p: Mapping[str, jax.Array], tokens: jax.Array) -> jax.Array:
    """tokens i32[T] -> x f[T, D], what `forward` takes in."""
    return p["embedding"][tokens]


def forward(
    c: ModelConfig,
    p: Mapping[str, jax.Array],
    x: jax.Array,
    positions: jax.Array,
    attend: Attend[Cache],
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """One step. x f[T, D], positions i32[T] -> hidden f[T, D] after the final norm, and the cache
    that `attend` has gone on with."""
    T, E = x.shape[0], c.head_dim
    angles = layers.rotary_angles(positions, c.rotary_dim, c.rotary_base)
    stacked = {name: p[name] for name in PER_LAYER}

    def layer(index: jax.Array, w: Mapping[str, jax.Array], x: jax.Array, cache: Cache):  # type: ignore[no-untyped-def]
        h = layers.rms_norm(x, w["norm.scale"], c.norm_eps)
        q = linear.linear(h, w["q"]).reshape(T, c.num_heads, E)
        k = linear.linear(h, w["k"]).reshape(T, c.num_kv_heads, E)
        v = linear.linear(h, w["v"]).reshape(T, c.num_kv_heads, E)
        q, k = (layers.rotate(a, angles, c.rotary_style) for a in (q, k))
        attended, cache = attend(q * E**-0.5, k, v, cache, index)
        x = x + linear.linear(attended.reshape(T, -1), w["out"])
        h = layers.rms_norm(x, w["ff_norm.scale"], c.norm_eps)
        gated = jax.nn.silu(linear.linear(h, w["gate"])) * linear.linear(h, w["up"])
        return x + linear.linear(gated, w["down"]), cache

    x, cache = layers.scan_layers(layer, stacked, x, cache)
    return layers.rms_norm(x, p["final_norm.scale"], c.norm_eps), cache


def logits(c: ModelConfig, p: Mapping[str, jax.Array], hidden: jax.Array) -> jax.Array:
    """hidden f[N, D] -> logits f32[N, V]."""
    return linear.linear(hidden, p["head.w"]).astype(jnp.float32)
