"""How a model is computed: in plain JAX, which runs everywhere, or by the CPU kernels.

backend = Backend("bfloat16")
operands = backend.pack(prepared, family.products(config))
pages = backend.make_pages(...)
attend = backend.attend(batch, heads, page_size)
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from saxml.common import huge_pages
from saxml.ops import attention, linear, ranking
from saxml.ops.attention import Attend, RaggedBatch
from saxml.ops.heads import Heads

if TYPE_CHECKING:
    from saxml.ops.packing import Packing

Element = Literal["float32", "bfloat16", "int8"]
# Pages of other sizes are left to plain JAX.
KERNEL_PAGE_MULTIPLE = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """element: how the CPU kernels store weights; None: plain JAX. Keys and values are float32
    where weights are, else bfloat16."""

    element: Element | None = None

    @property
    def page_element(self) -> Literal["float32", "bfloat16"]:
        """How the kernels store keys and values."""
        return "float32" if self.element == "float32" else "bfloat16"

    def pack(
        self, weights: Mapping[str, jax.Array], products: Sequence[linear.Columns | linear.Rows]
    ) -> dict[str, Any]:
        """What registry.prepare gave, as `forward` is to read it; run once at load."""
        if self.element is None:
            return dict(weights)
        from saxml.ops import packing

        return packing.pack(weights, products, self.element)

    def packing(
        self,
        products: Sequence[linear.Columns | linear.Rows],
        shapes: Mapping[str, jax.ShapeDtypeStruct],
    ) -> "Packing":
        """The same piece by piece, for the kernels. shapes: of what registry.prepare would give."""
        from saxml.ops.packing import Packing

        assert self.element is not None
        return Packing(products, shapes, self.element)

    def activations(self, embedded: jax.Array) -> jax.Array:
        """Embedded tokens in the type in which layers hand on their results."""
        return embedded if self.element is None else embedded.astype(jnp.float32)

    def page_axes(self) -> tuple[str | None, ...]:
        """Logical axes of the pages."""
        if self.element is None:
            return (None,) * 4 + ("kv_heads", "head_dim")
        return (None, None, "kv_heads", None)

    def page_shape(self, layers: int, pages: int, page_size: int, heads: Heads) -> tuple[int, ...]:
        """Shape of the pages."""
        if self.element is None:
            return (layers, pages, page_size, 2, heads.kv, heads.dim)
        return (layers, pages, heads.kv, self._kernel_pages(heads, page_size).head_units)

    def make_pages(
        self,
        layers: int,
        pages: int,
        page_size: int,
        heads: Heads,
        dtype: jax.typing.DTypeLike,
    ) -> jax.Array:
        """Empty pages; dtype counts in plain JAX only."""
        shape = self.page_shape(layers, pages, page_size, heads)
        return jnp.zeros(shape, dtype if self.element is None else jnp.uint32)

    def settle(self, pages: jax.Array) -> None:
        """Moves the memory of pages to huge pages, which the kernels read faster."""
        if self.element is not None:
            jax.block_until_ready(pages)
            huge_pages.collapse(pages.unsafe_buffer_pointer(), pages.nbytes)

    def attend(self, batch: RaggedBatch, heads: Heads, page_size: int) -> Attend[jax.Array]:
        """Attention of a step's rows over its pages."""
        if self.element is None:
            paged = functools.partial(attention.ragged_paged_attention, batch=batch)
            return attention.by_heads(paged, heads)
        return functools.partial(self._kernel_attend, batch, heads, page_size)

    def rank(self, logits: jax.Array, most: int, valid: jax.Array) -> ranking.Ranking:
        """Of logits f32[N, V], whose first `valid` rows count; not more than `most`, from 1 on,
        will be asked for as the best."""
        if self.element is None:
            return ranking.rank(logits)
        from saxml.ops import cpu_kernels

        values, tokens, log_sum = cpu_kernels.top_k(logits, most, valid)
        return ranking.Ranking(
            values[:, :1], log_sum[:, None], lambda count: (values[:, :count], tokens[:, :count])
        )

    def _kernel_pages(self, heads: Heads, page_size: int):  # type: ignore[no-untyped-def]
        from saxml.ops import cpu_kernels

        return cpu_kernels.PageShape(
            kv_heads=heads.kv, head_dim=heads.dim, page_size=page_size, element=self.page_element
        )

    def _kernel_attend(
        self,
        batch: RaggedBatch,
        heads: Heads,
        page_size: int,
        qkv: tuple[jax.Array, ...],
        angles: jax.Array,
        pages: jax.Array,
        layer: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        from saxml.ops import cpu_kernels

        (packed,) = qkv
        cos, sin = cpu_kernels.rotary(angles, heads.style)
        return cpu_kernels.attention(
            packed,
            pages,
            layer,
            shape=self._kernel_pages(heads, page_size),
            heads=heads.query,
            q_start=batch.q_start,
            kv_len=batch.kv_len,
            page_table=batch.page_table,
            num_rows=batch.num_rows,
            cos=cos,
            sin=sin,
            rotary_style=heads.style,
            query_scale=heads.scale,
            dtype=self.page_element,
        )


PLAIN = Backend()
