"""Transformer blocks of LlamaGen: RMSNorm, RoPE, SwiGLU, with a cache for decoding.

Follows the GPT of github.com/FoundationVision/LlamaGen, so that its weights convert.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.models.layers import UNROLL, attention, stacked
from ddjax.runtime import sharding
from ddjax.runtime.layout import ParameterLayout

# Keys and values of one block, [B, H, T, K] each. The heads come first because a step multiplies
# each of them as it stands; with T first every step would transpose the whole cache.
KeysValues = tuple[jax.Array, jax.Array]


class RMSNorm(nnx.Module):
    """x / rms(x) over the last axis in float32, times a learned scale; shape and type stay."""

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
    """Rotate the interleaved pairs (x[2i], x[2i + 1]) of each head: [B, S, H, K], in float32."""
    pairs = x_BSHK.astype(jnp.float32).reshape(*x_BSHK.shape[:-1], -1, 2)
    table = jnp.broadcast_to(table_SK2[None, :, None], pairs.shape)
    even, odd, cos, sin = pairs[..., 0], pairs[..., 1], table[..., 0], table[..., 1]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x_BSHK.shape).astype(x_BSHK.dtype)


class TransformerAttention(nnx.Module):
    """Multi-head self-attention with rotary embeddings.

    Args:
      width: D.
      heads: H; divides the width.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.wqkv = nnx.Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.wo = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_BSD: jax.Array,
        rope_SK2: jax.Array,
        mask: jax.Array,
        past: KeysValues | None,
        position: jax.Array | int,
    ) -> tuple[jax.Array, KeysValues]:
        """Attend from S positions.

        Args:
          x_BSD: inputs.
          rope_SK2: rows of the rotary table for these positions.
          mask: bool, broadcast to [B, H, S, T]: which keys a query sees.
          past: keys and values of all T positions, into which those of the S are written; without
            it T is S.
          position: the first of the S within `past`.

        Returns:
          outputs [B, S, D], and keys and values.
        """
        shape = (*x_BSD.shape[:2], self.heads, -1)
        q, k, v = (part.reshape(shape) for part in jnp.split(self.wqkv(x_BSD), 3, axis=-1))
        q, k = apply_rope(q, rope_SK2), apply_rope(k, rope_SK2)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if past is not None:
            k = jax.lax.dynamic_update_slice_in_dim(past[0], k, position, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(past[1], v, position, axis=2)
        scale = 1 / math.sqrt(q.shape[-1])
        out = attention(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scale)
        return self.wo(out.reshape(x_BSD.shape)), (k, v)


class SwiGLU(nnx.Module):
    """w2(silu(w1 x) * w3 x): [..., D] -> [..., D]; inside 8/3 as wide, rounded up to 256."""

    def __init__(self, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        hidden = -(-int(8 * width / 3) // 256) * 256
        self.w1 = nnx.Linear(width, hidden, use_bias=False, dtype=dtype, rngs=rngs)
        self.w3 = nnx.Linear(width, hidden, use_bias=False, dtype=dtype, rngs=rngs)
        self.w2 = nnx.Linear(hidden, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.w2(jax.nn.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nnx.Module):
    """Pre-norm attention and SwiGLU, each with a residual.

    Args:
      width: D.
      heads: H; divides the width.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(width)
        self.attention = TransformerAttention(width, heads, dtype, rngs)
        self.mlp_norm = RMSNorm(width)
        self.mlp = SwiGLU(width, dtype, rngs)

    def __call__(
        self,
        h_BSD: jax.Array,
        rope_SK2: jax.Array,
        mask: jax.Array,
        past: KeysValues | None,
        position: jax.Array | int,
    ) -> tuple[jax.Array, KeysValues]:
        """Outputs [B, S, D], and keys and values.

        Args:
          h_BSD: inputs.
          rope_SK2: rows of the rotary table for these positions.
          mask: bool, broadcast to [B, H, S, T]: which keys a query sees.
          past: as of `TransformerAttention`.
          position: likewise.
        """
        out, seen = self.attention(self.attention_norm(h_BSD), rope_SK2, mask, past, position)
        h_BSD = h_BSD + out
        return h_BSD + self.mlp(self.mlp_norm(h_BSD)), seen


# For each block: its weights, and the keys and values of all positions.
TransformerCache = list[tuple[TransformerBlock, KeysValues]]


class Transformer(nnx.Module):
    """Blocks stacked along a leading axis.

    A whole sequence goes through them in a scan, so that 48 layers compile as fast as 12; a step of
    decoding takes them one by one, see `init_cache`.

    Args:
      width: D.
      heads: H; divides the width.
      layers: number of blocks.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    layout = ParameterLayout()

    def __init__(
        self, width: int, heads: int, layers: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.layers, self.heads, self.head_width, self.dtype = layers, heads, width // heads, dtype
        self.blocks = stacked(
            lambda rngs: TransformerBlock(width, heads, dtype, rngs), layers, rngs
        )

    def __call__(
        self, h_BSD: jax.Array, rope_SK2: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, KeysValues]:
        """Run all blocks over a whole sequence.

        Args:
          h_BSD: inputs at S positions.
          rope_SK2: rows of the rotary table for these positions.
          mask: bool, broadcast to [B, H, S, S]: which keys a query sees.

        Returns:
          h [B, S, D], and keys and values [blocks, B, H, S, K] for `init_cache`.
        """

        def body(h: jax.Array, block: TransformerBlock, _: None) -> tuple:
            return block(h, rope_SK2, mask, None, 0)

        return sharding.scan_gathered(
            body, h_BSD, self.blocks, None, layout=self.layout, unroll=UNROLL
        )

    def init_cache(self, seen: KeysValues, length: int) -> TransformerCache:
        """The cache for `step`.

        It holds the weights too, block by block and in the dtype of the computation: decoding
        takes as long as reading them, and slicing them out of the stack reads them three times.

        Args:
          seen: keys and values of the first positions, as `__call__` returns them.
          length: T, of all positions that there will be.
        """
        room = ((0, 0), (0, 0), (0, length - seen[0].shape[3]), (0, 0))
        weights = jax.tree.map(lambda x: x.astype(self.dtype), self.blocks)

        def one(i: int) -> tuple[TransformerBlock, KeysValues]:
            k, v = (jnp.pad(x[i], room) for x in seen)
            return jax.tree.map(lambda x: x[i], weights), (k, v)

        return [one(i) for i in range(self.layers)]

    def step(
        self,
        h_BSD: jax.Array,
        rope_SK2: jax.Array,
        mask: jax.Array,
        cache: TransformerCache,
        position: jax.Array | int,
    ) -> tuple[jax.Array, TransformerCache]:
        """Run all blocks over S further positions.

        Args:
          h_BSD: inputs.
          rope_SK2: rows of the rotary table for these positions.
          mask: bool, broadcast to [B, H, S, T], T the length of the cache.
          cache: of the positions before.
          position: the first of the S.

        Returns:
          h [B, S, D], and the updated cache.
        """
        updated = []
        for block, past in cache:
            h_BSD, seen = block(h_BSD, rope_SK2, mask, past, position)
            updated.append((block, seen))
        return h_BSD, updated
