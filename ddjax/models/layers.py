"""The transformer that teachers and students share: RMSNorm, RoPE, SwiGLU, scanned blocks.

Conventions of LlamaGen's GPT (github.com/FoundationVision/LlamaGen), so that its weights convert.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Keys and values of all blocks: two arrays [blocks, B, T, H, K].
Cache = tuple[jax.Array, jax.Array]


class RMSNorm(nnx.Module):
    """x / rms(x) in float32, cast back, times a learned weight."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones((width,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-5)
        scale = self.scale[...].astype(x.dtype)
        return normed.astype(x.dtype) * jnp.broadcast_to(scale, x.shape)


def rope_table(grid: int, head_width: int, condition_tokens: int) -> np.ndarray:
    """2-D rotary table [condition_tokens + grid^2, head_width / 2, 2] of (cos, sin), float32.

    The first half of the pairs turns with the row of a token in the grid, the second with its
    column. Condition tokens have cos = sin = 0: their queries and keys vanish.
    """
    half = head_width // 2
    frequencies = 10000.0 ** (-np.arange(0, half, 2)[: half // 2] / half)
    angles = np.arange(grid)[:, None] * frequencies[None]
    rows = np.broadcast_to(angles[:, None], (grid, grid, half // 2))
    columns = np.broadcast_to(angles[None], (grid, grid, half // 2))
    both = np.concatenate([rows, columns], axis=-1).reshape(grid**2, half)
    table = np.stack([np.cos(both), np.sin(both)], axis=-1)
    return np.concatenate([np.zeros((condition_tokens, half, 2)), table]).astype(np.float32)


def apply_rope(x_BSHK: jax.Array, table_SK2: jax.Array) -> jax.Array:
    """Rotate the interleaved pairs (x[2i], x[2i + 1]) of each head in float32."""
    pairs = x_BSHK.astype(jnp.float32).reshape(*x_BSHK.shape[:-1], -1, 2)
    table = jnp.broadcast_to(table_SK2[None, :, None], pairs.shape)
    even, odd, cos, sin = pairs[..., 0], pairs[..., 1], table[..., 0], table[..., 1]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x_BSHK.shape).astype(x_BSHK.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention, with or without a cache."""

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.wqkv = nnx.Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.wo = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_BSD: jax.Array,
        rope_SK2: jax.Array,
        mask: jax.Array,
        cache: Cache | None,
        position: jax.Array | int,
    ) -> tuple[jax.Array, Cache | None]:
        shape = (*x_BSD.shape[:2], self.heads, -1)
        q, k, v = (part.reshape(shape) for part in jnp.split(self.wqkv(x_BSD), 3, axis=-1))
        q, k = apply_rope(q, rope_SK2), apply_rope(k, rope_SK2)
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache[0], k, position, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(cache[1], v, position, axis=1)
            cache = (k, v)
        out = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return self.wo(out.reshape(x_BSD.shape)), cache


class SwiGLU(nnx.Module):
    """w2(silu(w1 x) * w3 x); the hidden width is 8/3 of the width, rounded up to 256."""

    def __init__(self, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        hidden = -(-int(8 * width / 3) // 256) * 256
        self.w1 = nnx.Linear(width, hidden, use_bias=False, dtype=dtype, rngs=rngs)
        self.w3 = nnx.Linear(width, hidden, use_bias=False, dtype=dtype, rngs=rngs)
        self.w2 = nnx.Linear(hidden, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.w2(jax.nn.silu(self.w1(x)) * self.w3(x))


class Block(nnx.Module):
    """Pre-norm attention and SwiGLU, each with a residual."""

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, heads, dtype, rngs)
        self.mlp_norm = RMSNorm(width)
        self.mlp = SwiGLU(width, dtype, rngs)

    def __call__(
        self,
        h_BSD: jax.Array,
        rope_SK2: jax.Array,
        mask: jax.Array,
        cache: Cache | None,
        position: jax.Array | int,
    ) -> tuple[jax.Array, Cache | None]:
        out, cache = self.attention(self.attention_norm(h_BSD), rope_SK2, mask, cache, position)
        h_BSD = h_BSD + out
        return h_BSD + self.mlp(self.mlp_norm(h_BSD)), cache


class Transformer(nnx.Module):
    """Blocks stacked along a leading axis and scanned: 48 layers compile as fast as 12."""

    def __init__(
        self, width: int, heads: int, layers: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.layers, self.heads, self.head_width, self.dtype = layers, heads, width // heads, dtype

        @nnx.split_rngs(splits=layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(width, heads, dtype, rngs)

        self.blocks = stack(rngs)

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `length` positions."""
        shape = (self.layers, batch, length, self.heads, self.head_width)
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)

    def __call__(
        self,
        h_BSD: jax.Array,
        rope_SK2: jax.Array,
        mask: jax.Array,
        cache: Cache | None = None,
        position: jax.Array | int = 0,
    ) -> tuple[jax.Array, Cache | None]:
        """Run all blocks.

        Args:
          h_BSD: inputs at S positions.
          rope_SK2: rows of the rotary table for these positions.
          mask: bool, broadcast to [B, H, S, T]: which of the T keys a query sees; T is S without a
            cache and the cache's length with one.
          cache: written at `position` and on.
          position: index of the first of the S positions in the cache.

        Returns:
          h [B, S, D] and the updated cache.
        """

        def body(h: jax.Array, layer: tuple) -> tuple:
            block, layer_cache = layer
            return block(h, rope_SK2, mask, layer_cache, position)

        # Four blocks a turn: a quarter faster on a CPU than one, and compiles no slower at 48.
        return jax.lax.scan(body, h_BSD, (self.blocks, cache), unroll=4)
