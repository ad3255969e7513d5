"""GPT-J: attention and feed-forward in parallel from one shared norm (Wang & Komatsuzaki 2021).

x <- x + attn(ln(x)) + ff(ln(x)); no bias in attention, tanh-approximated GELU, rotary on the first
dims of each head, untied output head with bias.
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
ATTENTION = ("norm.scale", "norm.bias", "q", "k", "v", "out")
FEED_FORWARD = ("fc_in.w", "fc_in.b", "fc_out.w", "fc_out.b")
PER_LAYER = ATTENTION + FEED_FORWARD


def parameters(c: ModelConfig) -> dict[str, Param]:
    """Declared weights by run-time name."""
    D, H, E, F, V, L = (
        c.model_dim,
        c.num_heads,
        c.head_dim,
        c.hidden_dim,
        c.vocab_size,
        c.num_layers,
    )
    return {
        "embedding": Param("lm.embedding_lookup.emb_var", (V, D), ("vocab", "embed")),
        "head.w": Param("lm.softmax.logits_ffn.linear.w", (D, V), ("embed", "vocab")),
        "head.b": Param("lm.softmax.logits_ffn.bias.b", (V,), ("vocab",), init_scale=0.0),
        "final_norm.scale": Param("lm.final_ln.scale", (D,), ("embed",), init_scale=0, init_mean=1),
        "final_norm.bias": Param("lm.final_ln.bias", (D,), ("embed",), init_scale=0),
        "norm.scale": Param(LAYER + "layer_norm.scale", (D,), ("embed",), L, 0, 1),
        "norm.bias": Param(LAYER + "layer_norm.bias", (D,), ("embed",), L, 0),
        "qkv": Param(
            LAYER + "self_attention.combined_qkv.w",
            (3, D, H, E),
            (None, "embed", "heads", "head_dim"),
            L,
        ),
        "out": Param(LAYER + "self_attention.post.w", (D, H, E), ("embed", "heads", "head_dim"), L),
        "fc_in.w": Param(LAYER + "ff_layer.ffn_layer1.linear.w", (D, F), ("embed", "mlp"), L),
        "fc_in.b": Param(LAYER + "ff_layer.ffn_layer1.bias.b", (F,), ("mlp",), L, 0),
        "fc_out.w": Param(LAYER + "ff_layer.ffn_layer2.linear.w", (F, D), ("mlp", "embed"), L),
        "fc_out.b": Param(LAYER + "ff_layer.ffn_layer2.bias.b", (D,), ("embed",), L, 0),
    }


def prepare(c: ModelConfig, p: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Restored arrays -> the operands that `forward` reads; run once at load."""
    L, D, HE = c.num_layers, c.model_dim, c.num_heads * c.head_dim
    q, k, v = (p["qkv"][:, i].reshape(L, D, HE) for i in range(3))
    out = jnp.transpose(p["out"], (0, 2, 3, 1)).reshape(L, HE, D)
    kept = {name: value for name, value in p.items() if name not in ("qkv", "out")}
    matrices = {"q": q, "k": k, "v": v, "out": out}
    return {**kept, **{name: linear.prepare(w) for name, w in matrices.items()}}


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
    T = x.shape[0]
    angles = layers.rotary_angles(positions, c.rotary_dim, c.rotary_base)
    stacked = {name: p[name] for name in PER_LAYER}

    def layer(index: jax.Array, w: Mapping[str, jax.Array], x: jax.Array, cache: Cache):  # type: ignore[no-untyped-def]
        h = layers.layer_norm(x, w["norm.scale"], w["norm.bias"], c.norm_eps)
        q, k, v = (
            linear.linear(h, w[n]).reshape(T, c.num_heads, c.head_dim) for n in ("q", "k", "v")
        )
        q, k = (layers.rotate(a, angles, c.rotary_style) for a in (q, k))
        q = q * c.head_dim**-0.5
        attended, cache = attend(q, k, v, cache, index)
        mixed = linear.linear(attended.reshape(T, -1), w["out"])
        hidden = jax.nn.gelu(linear.linear(h, w["fc_in.w"], w["fc_in.b"]), approximate=True)
        return x + mixed + linear.linear(hidden, w["fc_out.w"], w["fc_out.b"]), cache

    x, cache = layers.scan_layers(layer, stacked, x, cache)
    return layers.layer_norm(x, p["final_norm.scale"], p["final_norm.bias"], c.norm_eps), cache


def logits(c: ModelConfig, p: Mapping[str, jax.Array], hidden: jax.Array) -> jax.Array:
    """hidden f[N, D] -> logits f32[N, V]."""
    return linear.linear(hidden, p["head.w"], p["head.b"]).astype(jnp.float32)
