"""GPT-J: attention and feed-forward in parallel from one shared norm (Wang & Komatsuzaki 2021).

x <- x + attn(ln(x)) + ff(ln(x)); no bias in attention, tanh-approximated GELU, rotary on the first
dims of each head, untied output head with bias.
"""

from collections.abc import Mapping
from typing import Any

import jax

from saxml.models import layers
from saxml.models.config import ModelConfig
from saxml.models.params import Param
from saxml.models.views import View, attention_views
from saxml.ops import linear, norms, rotary
from saxml.ops.attention import Attend, Cache
from saxml.ops.linear import Columns, Group, Norm, Rows

LAYER = "lm.transformer.x_layers_{layer}."
UNSTACKED = ("embedding", "head", "head.w", "head.b", "final_norm.scale", "final_norm.bias")


def products(c: ModelConfig) -> tuple[Columns, Rows, Columns]:
    """The products of a layer, and that of the output head."""
    return (
        Columns(
            "layer_in",
            (Group(("q", "k", "v")), Group(("fc_in.w",), "gelu", "fc_in.b")),
            Norm("norm.scale", c.norm_eps, "norm.bias"),
        ),
        Rows("layer_out", ("out", "fc_out.w"), "fc_out.b"),
        Columns("head", (Group(("head.w",), bias="head.b"),), stacked=False),
    )


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
        "head.w": Param(
            "lm.softmax.logits_ffn.linear.w", (D, V), ("embed", "vocab"), contracted=(0,)
        ),
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
            contracted=(1,),
        ),
        "out": Param(
            LAYER + "self_attention.post.w",
            (D, H, E),
            ("embed", "heads", "head_dim"),
            L,
            contracted=(1, 2),
        ),
        "fc_in.w": Param(
            LAYER + "ff_layer.ffn_layer1.linear.w", (D, F), ("embed", "mlp"), L, contracted=(0,)
        ),
        "fc_in.b": Param(LAYER + "ff_layer.ffn_layer1.bias.b", (F,), ("mlp",), L, 0),
        "fc_out.w": Param(
            LAYER + "ff_layer.ffn_layer2.linear.w", (F, D), ("mlp", "embed"), L, contracted=(0,)
        ),
        "fc_out.b": Param(LAYER + "ff_layer.ffn_layer2.bias.b", (D,), ("embed",), L, 0),
    }


def views(c: ModelConfig) -> dict[str, View]:
    """What `forward` and `logits` read, as parts of the declared weights."""
    kept = {name: View(name) for name in parameters(c) if name not in ("qkv", "out")}
    return {**kept, **attention_views(combined=True)}


def embed(p: Mapping[str, Any], tokens: jax.Array) -> jax.Array:
    """tokens i32[T] -> x f[T, D], what `forward` takes in."""
    x: jax.Array = p["embedding"][tokens]
    return x


def forward(
    c: ModelConfig,
    p: Mapping[str, Any],
    x: jax.Array,
    positions: jax.Array,
    attend: Attend[Cache],
    cache: Cache,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """One step. x f[T, D], positions i32[T] -> hidden f[T, D] after the final norm, and the cache
    that `attend` has gone on with. Only the first `valid` rows need be right; None: all."""
    angles = rotary.angles(positions, c.rotary_dim, c.rotary_base)
    layer_in, layer_out, _ = products(c)

    def layer(index: jax.Array, w: Mapping[str, Any], x: jax.Array, cache: Cache):  # type: ignore[no-untyped-def]
        qkv, (hidden,) = linear.project(w, layer_in, x)
        attended, cache = attend(qkv, angles, cache, index)
        return linear.combine(w, layer_out, [attended, hidden], x), cache

    stacked = {n: w for n, w in p.items() if n not in UNSTACKED}
    x, cache = layers.scan_layers(layer, stacked, x, cache, valid)
    return norms.layer_norm(x, p["final_norm.scale"], p["final_norm.bias"], c.norm_eps), cache


def logits(
    c: ModelConfig, p: Mapping[str, Any], hidden: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """hidden f[N, D] -> logits f32[N, V], of which the first `valid` rows are right; None: all."""
    return layers.logits(p, products(c)[2], hidden, valid)
