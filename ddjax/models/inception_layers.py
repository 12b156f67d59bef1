"""Layers of Inception-v3: convolution with folded batch norm, and pools of 3 x 3 pixels."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.models.inception_blocks import Unit
from ddjax.models.resize import HIGHEST

EPSILON = 1e-3


class ConvUnit(nnx.Module):
    """A convolution without bias, batch norm by running statistics, ReLU: [B, h, w, channels].

    Args:
      spec: its place in the table.
      inner: channels of the input.
      outer: channels of the output.
      dtype: of the convolution.
      rngs: of the initial weights.
    """

    def __init__(
        self, spec: Unit, inner: int, outer: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.spec, self.dtype = spec, dtype
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (*spec.kernel, inner, outer)))
        self.scale, self.bias = nnx.Param(jnp.ones(outer)), nnx.Param(jnp.zeros(outer))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(outer)), nnx.BatchStat(jnp.ones(outer))

    def __call__(self, x: jax.Array) -> jax.Array:
        # The norm goes into kernel and bias, as both are known: one pass over the pixels less.
        factor = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPSILON)
        kernel = (self.kernel[...] * factor.reshape(1, 1, 1, -1)).astype(self.dtype)
        bias = (self.bias[...] - self.mean[...] * factor).reshape(1, 1, 1, -1)
        h = _convolution(x.astype(self.dtype), kernel, self.spec)
        return jax.nn.relu(h + bias.astype(self.dtype))


def _convolution(x: jax.Array, kernel: jax.Array, spec: Unit) -> jax.Array:
    """Of images [B, h, w, inner] and a kernel [height, width, inner, outer]."""
    if spec.kernel == (1, 1):
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0], precision=HIGHEST)
    # Without padding a column too many, cut off again: where there is none at all, XLA's CPU code
    # takes up to 5 times as long.
    padding = [(n // 2, n // 2) for n in spec.kernel] if spec.padded else [(0, 0), (0, 1)]
    found = jax.lax.conv_general_dilated(
        x, kernel, (spec.stride, spec.stride), padding, precision=HIGHEST,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return found if spec.padded else found[:, :, : (x.shape[2] - spec.kernel[1]) // spec.stride + 1]


def max_pool(x: jax.Array, stride: int) -> jax.Array:
    """Maxima of 3 x 3 pixels of [B, h, w, C]; at stride 1 the size stays."""
    edge = int(stride == 1)
    return _pool(x, jnp.maximum, stride, edge, -jnp.inf)


def mean_pool(x: jax.Array) -> jax.Array:
    """Means of 3 x 3 pixels of [B, h, w, C], at the edges of those that there are."""
    rows, columns = (np.convolve(np.ones(size), np.ones(3), "same") for size in x.shape[1:3])
    counts = (rows[:, None] * columns).astype(x.dtype)[None, :, :, None]
    return _pool(x, jnp.add, 1, 1, 0) / counts


def _pool(
    x: jax.Array, join: Callable[..., jax.Array], stride: int, edge: int, outside: float
) -> jax.Array:
    """Joined along one axis, then along the other: slices are fused, windows are not."""
    for axis in (1, 2):
        widths = [(edge, edge) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, widths, constant_values=outside)
        last = padded.shape[axis] - 2
        x = functools.reduce(join, (
            jax.lax.slice_in_dim(padded, i, last + i, stride, axis) for i in range(3)
        ))
    return x
