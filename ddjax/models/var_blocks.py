"""Transformer block of VAR: AdaLN, attention between queries and keys of norm 1, GELU.

Follows github.com/FoundationVision/VAR, so that its weights convert.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.codes import unit
from ddjax.models.layers import adaptive_norm, attention

# Keys and values of earlier positions, [B, T, H, K] each; of all blocks with an axis before.
VARCache = tuple[jax.Array, jax.Array]


class VARAttention(nnx.Module):
    """Self-attention between unit queries and keys, with a learned scale for each head.

    Args:
      width: D.
      heads: H; divides the width.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.wqkv = nnx.Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.q_bias = nnx.Param(jnp.zeros((width,)))
        self.v_bias = nnx.Param(jnp.zeros((width,)))
        self.log_scale = nnx.Param(jnp.full((heads,), math.log(4)))
        self.wo = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BSD: jax.Array, mask: jax.Array | None, cache: VARCache | None
    ) -> tuple[jax.Array, VARCache | None]:
        """Attend from S positions.

        Args:
          x_BSD: inputs.
          mask: bool, broadcast to [B, H, S, T]: which keys a query sees; None for all.
          cache: keys and values of the earlier positions, if any.

        Returns:
          outputs [B, S, D], and the cache, longer by S.
        """
        shape = (*x_BSD.shape[:2], self.heads, -1)
        no_k_bias = jnp.zeros_like(self.q_bias[...])
        bias = jnp.concatenate([self.q_bias[...], no_k_bias, self.v_bias[...]])
        qkv = self.wqkv(x_BSD).astype(jnp.float32) + bias[None, None]
        q, k, v = (part.reshape(shape) for part in jnp.split(qkv, 3, axis=-1))
        scale_H = jnp.exp(jnp.minimum(self.log_scale[...], math.log(100)))
        q, k = unit(q) * scale_H[None, None, :, None], unit(k)
        q, k, v = (part.astype(x_BSD.dtype) for part in (q, k, v))
        if cache is not None:
            k, v = cache = tuple(
                jnp.concatenate(pair, axis=1) for pair in zip(cache, (k, v), strict=True)
            )
        out = attention(q, k, v, mask, scale=1.0)
        return self.wo(out.reshape(x_BSD.shape)), cache


class MLP(nnx.Module):
    """fc2(gelu(fc1 x)): [..., D] -> [..., D], four times as wide inside; GELU by tanh."""

    def __init__(self, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=True))


class Modulation(nnx.Module):
    """`count` vectors [B, 1, D] from the condition, through SiLU and a linear layer.

    In float32. They start at zero, so that a fresh block passes its input on (AdaLN-Zero,
    arXiv 2212.09748).
    """

    def __init__(self, width: int, count: int, rngs: nnx.Rngs) -> None:
        self.count = count
        zeros = nnx.initializers.zeros
        self.linear = nnx.Linear(width, count * width, kernel_init=zeros, rngs=rngs)

    def __call__(self, condition_B1D: jax.Array) -> list[jax.Array]:
        return jnp.split(self.linear(jax.nn.silu(condition_B1D)), self.count, axis=-1)


class VARBlock(nnx.Module):
    """Attention and MLP, each between an adaptive norm and a gate, with a residual.

    Args:
      width: D.
      heads: H; divides the width.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.modulation = Modulation(width, 6, rngs)
        self.attention = VARAttention(width, heads, dtype, rngs)
        self.mlp = MLP(width, dtype, rngs)

    def __call__(
        self,
        h_BSD: jax.Array,
        modulation: list[jax.Array],
        mask: jax.Array | None,
        between_BSD: jax.Array | None,
        cache: VARCache | None,
    ) -> tuple[jax.Array, VARCache | None]:
        """Outputs [B, S, D], and the cache.

        Args:
          h_BSD: inputs.
          modulation: what the module of this name makes of the condition.
          mask: bool, broadcast to [B, H, S, T]: which keys a query sees; None for all.
          between_BSD: added between attention and MLP, if anything.
          cache: keys and values of the earlier positions, if any.
        """
        gate1, gate2, scale1, scale2, shift1, shift2 = modulation
        out, cache = self.attention(adaptive_norm(h_BSD, scale1, shift1), mask, cache)
        h_BSD = h_BSD + out * gate1.astype(out.dtype)
        if between_BSD is not None:
            h_BSD = h_BSD + between_BSD
        out = self.mlp(adaptive_norm(h_BSD, scale2, shift2))
        return h_BSD + out * gate2.astype(out.dtype), cache
