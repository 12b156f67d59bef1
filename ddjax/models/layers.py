"""The transformer that teachers and students share: RMSNorm, RoPE, SwiGLU, scanned blocks.

Conventions of LlamaGen's GPT (github.com/FoundationVision/LlamaGen), so that its weights convert.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax import sharding

# Keys and values of one block, [B, H, T, K] each. The heads come first because a step multiplies
# each of them as it stands; with T first every step would turn the whole cache round.
KeysValues = tuple[jax.Array, jax.Array]
# Blocks a turn of the scan: a quarter faster on a CPU than one, and compiles no slower at 48.
UNROLL = 4


def stacked(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """Modules made with keys of their own, as one whose arrays have a leading axis of `layers`."""
    return nnx.split_rngs(splits=layers)(nnx.vmap(make, in_axes=0, out_axes=0))(rngs)


def adaptive_norm(x_BSD: jax.Array, scale_B1D: jax.Array, shift_B1D: jax.Array) -> jax.Array:
    """LayerNorm without parameters in float32, times 1 + scale, plus shift; cast back."""
    wide = x_BSD.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    return (normed * (1 + scale_B1D) + shift_B1D).astype(x_BSD.dtype)


class VectorHead(nnx.Module):
    """A student's vectors in code space, from a trunk that no last norm has touched.

    Shift and scale of the adaptive norm are the rows of a learned table, each plus the condition.
    """

    def __init__(self, width: int, code_dim: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.shift_scale = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (2, width)))
        self.linear = nnx.Linear(
            width, code_dim, dtype=dtype, preferred_element_type=jnp.float32, rngs=rngs
        )

    def __call__(self, h_BLD: jax.Array, condition_B1D: jax.Array) -> jax.Array:
        shift, scale = (row + condition_B1D for row in self.shift_scale[:, None, None])
        return self.linear(adaptive_norm(h_BLD, scale, shift))


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
    """Multi-head self-attention; with a past, the new keys are put into it at `position`."""

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
        shape = (*x_BSD.shape[:2], self.heads, -1)
        q, k, v = (part.reshape(shape) for part in jnp.split(self.wqkv(x_BSD), 3, axis=-1))
        q, k = apply_rope(q, rope_SK2), apply_rope(k, rope_SK2)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if past is not None:
            k = jax.lax.dynamic_update_slice_in_dim(past[0], k, position, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(past[1], v, position, axis=2)
        # JAX takes XLA's implementation, on GPUs too. cuDNN's, asked for by name, refuses masks
        # over an odd length in training, such as 1 + 256, and the head width of 3B.
        out = jax.nn.dot_product_attention(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask=mask)
        return self.wo(out.reshape(x_BSD.shape)), (k, v)


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
        past: KeysValues | None,
        position: jax.Array | int,
    ) -> tuple[jax.Array, KeysValues]:
        out, seen = self.attention(self.attention_norm(h_BSD), rope_SK2, mask, past, position)
        h_BSD = h_BSD + out
        return h_BSD + self.mlp(self.mlp_norm(h_BSD)), seen


# For each block: its weights, and the keys and values of all positions.
Cache = list[tuple[Block, KeysValues]]


class Transformer(nnx.Module):
    """Blocks stacked along a leading axis.

    A whole sequence goes through them in a scan, so that 48 layers compile as fast as 12; a step of
    decoding takes them one by one, see `init_cache`.
    """

    def __init__(
        self, width: int, heads: int, layers: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.layers, self.heads, self.head_width, self.dtype = layers, heads, width // heads, dtype

        self.blocks = stacked(lambda rngs: Block(width, heads, dtype, rngs), layers, rngs)

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

        def body(h: jax.Array, block: Block, _: None) -> tuple:
            return block(h, rope_SK2, mask, None, 0)

        return sharding.scan_gathered(body, h_BSD, self.blocks, None, unroll=UNROLL)

    def init_cache(self, seen: KeysValues, length: int) -> Cache:
        """The cache for `step`, with room for `length` positions, behind what was `seen`.

        It holds the weights too, block by block and in the dtype of the computation: decoding
        takes as long as reading them, and slicing them out of the stack reads them three times.
        """
        room = ((0, 0), (0, 0), (0, length - seen[0].shape[3]), (0, 0))
        weights = jax.tree.map(lambda x: x.astype(self.dtype), self.blocks)

        def one(i: int) -> tuple[Block, KeysValues]:
            k, v = (jnp.pad(x[i], room) for x in seen)
            return jax.tree.map(lambda x: x[i], weights), (k, v)

        return [one(i) for i in range(self.layers)]

    def step(
        self,
        h_BSD: jax.Array,
        rope_SK2: jax.Array,
        mask: jax.Array,
        cache: Cache,
        position: jax.Array | int,
    ) -> tuple[jax.Array, Cache]:
        """Run all blocks over S further positions, the first of them at `position`.

        `mask` broadcasts to [B, H, S, T], T the cache's length. Returns h and the updated cache.
        """
        updated = []
        for block, past in cache:
            h_BSD, seen = block(h_BSD, rope_SK2, mask, past, position)
            updated.append((block, seen))
        return h_BSD, updated
