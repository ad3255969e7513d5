"""The Llama family: RMSNorm before attention and before a SiLU-gated feed-forward, rotary on whole
heads, no biases.

Touvron et al. 2023; grouped key-value heads from Llama 2 on. SmolLM2 ties the output head to the
embedding.
"""

from collections.abc import Mapping
from typing import Any

import jax

from saxml.models import layers
from saxml.models.config import ModelConfig
from saxml.models.params import Param
from saxml.models.views import View, attention_views, transposed
from saxml.ops import linear, norms, rotary
from saxml.ops.attention import Attend, Cache
from saxml.ops.linear import Columns, Group, Norm, Rows

LAYER = "lm.transformer.x_layers_{layer}."
UNSTACKED = ("embedding", "head", "head.w", "final_norm.scale")


def products(c: ModelConfig) -> tuple[Columns, Rows, Columns, Rows, Columns]:
    """The products of a layer, and that of the output head."""
    return (
        Columns("attention_in", (Group(("q", "k", "v")),), Norm("norm.scale", c.norm_eps)),
        Rows("attention_out", ("out",)),
        Columns(
            "feed_in", (Group(("gate", "up"), "silu_gated"),), Norm("ff_norm.scale", c.norm_eps)
        ),
        Rows("feed_out", ("down",)),
        Columns(
            "head",
            (Group(("head.w",)),),
            stacked=False,
            transposed="embedding" if c.tied_embeddings else None,
        ),
    )


def parameters(c: ModelConfig) -> dict[str, Param]:
    """Declared weights by run-time name."""
    D, H, K, E = c.model_dim, c.num_heads, c.num_kv_heads, c.head_dim
    F, V, L = c.hidden_dim, c.vocab_size, c.num_layers
    declared = {
        "head.w": Param(
            "lm.softmax.logits_ffn.linear.w", (D, V), ("embed", "vocab"), contracted=(0,)
        ),
        "final_norm.scale": Param("lm.final_ln.scale", (D,), ("embed",), init_scale=0, init_mean=1),
        "norm.scale": Param(LAYER + "layer_norm.scale", (D,), ("embed",), L, 0, 1),
        "out": Param(
            LAYER + "self_attention.post.w",
            (D, H, E),
            ("embed", "heads", "head_dim"),
            L,
            contracted=(1, 2),
        ),
        "ff_norm.scale": Param(LAYER + "ff_layer.layer_norm.scale", (D,), ("embed",), L, 0, 1),
    }
    for name, layer, shape, axes in (
        ("gate", "ffn_layer1_gate", (D, F), ("embed", "mlp")),
        ("up", "ffn_layer1", (D, F), ("embed", "mlp")),
        ("down", "ffn_layer2", (F, D), ("mlp", "embed")),
    ):
        pax_name = f"{LAYER}ff_layer.{layer}.linear.w"
        declared[name] = Param(pax_name, shape, axes, L, contracted=(0,))
    if not c.tied_embeddings:
        declared["embedding"] = Param("lm.embedding_lookup.emb_var", (V, D), ("vocab", "embed"))
    if c.combined_qkv:
        declared["qkv"] = Param(
            LAYER + "self_attention.combined_qkv.w",
            (3, D, H, E),
            (None, "embed", "heads", "head_dim"),
            L,
            contracted=(1,),
        )
    else:
        for name, heads, axis in (
            ("query", H, "heads"),
            ("key", K, "kv_heads"),
            ("value", K, "kv_heads"),
        ):
            declared[name] = Param(
                f"{LAYER}self_attention.{name}.w",
                (D, heads, E),
                ("embed", axis, "head_dim"),
                L,
                contracted=(0,),
            )
    return declared


def views(c: ModelConfig) -> dict[str, View]:
    """What `forward` and `logits` read, as parts of the declared weights."""
    moved = ("qkv", "query", "key", "value", "out")
    found = {name: View(name) for name in parameters(c) if name not in moved}
    if c.tied_embeddings:
        found["embedding"] = View("head.w", transposed)
    return {**found, **attention_views(c.combined_qkv)}


def embed(p: Mapping[str, Any], tokens: jax.Array) -> jax.Array:
    """tokens i32[T] -> x f[T, D], what `forward` takes in."""
    if "embedding" not in p:  # tied, and packed as the head
        return linear.lookup(p["head"], tokens)
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
    attention_in, attention_out, feed_in, feed_out, _ = products(c)

    def layer(index: jax.Array, w: Mapping[str, Any], x: jax.Array, cache: Cache):  # type: ignore[no-untyped-def]
        (qkv,) = linear.project(w, attention_in, x)
        attended, cache = attend(qkv, angles, cache, index)
        x = linear.combine(w, attention_out, [attended], x)
        ((gated,),) = linear.project(w, feed_in, x)
        return linear.combine(w, feed_out, [gated], x), cache

    stacked = {n: w for n, w in p.items() if n not in UNSTACKED}
    x, cache = layers.scan_layers(layer, stacked, x, cache, valid)
    return norms.rms_norm(x, p["final_norm.scale"], c.norm_eps), cache


def logits(
    c: ModelConfig, p: Mapping[str, Any], hidden: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """hidden f[N, D] -> logits f32[N, V], of which the first `valid` rows are right; None: all."""
    return layers.logits(p, products(c)[4], hidden, valid)
