"""Layers that model families share: stacks, attention, adaptive norm, what only students have."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.runtime import platform

# Blocks a turn of the scan: a quarter faster on a CPU than one, and compiles no slower at 48.
UNROLL = 4
# Queries; of fewer the scores of all heads are small.
_MANY = 64


def stacked(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """A stack of modules, each with random weights of its own.

    Args:
      make: one of them.
      layers: how many.
      rngs: of the initial weights.

    Returns:
      one module, whose arrays have a leading axis of `layers`.
    """
    return nnx.split_rngs(splits=layers)(nnx.vmap(make, in_axes=0, out_axes=0))(rngs)


def attention(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    mask: jax.Array | None,
    scale: float,
) -> jax.Array:
    """Softmax attention; of many queries on a CPU head after head, whose scores stay in its caches.

    Args:
      q_BSHK: queries.
      k_BTHK: keys.
      v_BTHK: values.
      mask: bool, broadcast to [B, 1, S, T]: which keys a query sees; None for all.
      scale: of the scores.

    Returns:
      [B, S, H, K].
    """
    if not platform.is_cpu() or q_BSHK.shape[1] < _MANY:
        # JAX takes XLA's implementation, on GPUs too. cuDNN's, asked for by name, refuses masks
        # over an odd length in training, such as 1 + 256, and the head width of LlamaGen-3B.
        return jax.nn.dot_product_attention(q_BSHK, k_BTHK, v_BTHK, mask=mask, scale=scale)

    def one(head: tuple[jax.Array, ...]) -> jax.Array:
        q_BSK, k_BTK, v_BTK = head
        scores = scale * jnp.einsum(
            "bsk,btk->bst", q_BSK, k_BTK, preferred_element_type=jnp.float32
        )
        if mask is not None:
            scores = jnp.where(mask[:, 0], scores, jnp.finfo(jnp.float32).min)
        return jnp.einsum("bst,btk->bsk", jax.nn.softmax(scores).astype(v_BTK.dtype), v_BTK)

    heads = (jnp.moveaxis(x, 2, 0) for x in (q_BSHK, k_BTHK, v_BTHK))
    return jnp.moveaxis(jax.lax.map(one, tuple(heads)), 0, 2)


def adaptive_norm(x_BSD: jax.Array, scale_B1D: jax.Array, shift_B1D: jax.Array) -> jax.Array:
    """LayerNorm [B, S, D] without parameters, in float32, times 1 + scale, plus shift."""
    wide = x_BSD.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    return (normed * (1 + scale_B1D) + shift_B1D).astype(x_BSD.dtype)


class VectorHead(nnx.Module):
    """A student's head for vectors in code space: adaptive norm, then a linear layer.

    Shift and scale of the norm are the rows of a learned table, each plus the condition.

    Args:
      width: D.
      code_dim: C.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(self, width: int, code_dim: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.shift_scale = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (2, width)))
        self.linear = nnx.Linear(
            width, code_dim, dtype=dtype, preferred_element_type=jnp.float32, rngs=rngs
        )

    def __call__(self, h_BLD: jax.Array, condition_B1D: jax.Array) -> jax.Array:
        """Vectors [B, L, C], float32, from a trunk's output before its last norm."""
        shift, scale = (row + condition_B1D for row in self.shift_scale[:, None, None])
        return self.linear(adaptive_norm(h_BLD, scale, shift))


def last_embed(width: int, code_dim: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """How a refining student reads the codes of its pass before: not at all, at first.

    Args:
      width: D.
      code_dim: C.
      dtype: of the computation.
      rngs: of the initial weights.
    """
    return nnx.Linear(
        code_dim, width, use_bias=False, dtype=dtype, kernel_init=nnx.initializers.zeros, rngs=rngs
    )
