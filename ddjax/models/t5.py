"""T5 encoder, version 1.1 (flan-T5): token ids of a caption become the features teachers read.

Follows T5EncoderModel of github.com/huggingface/transformers, so that its weights convert: no
biases, norms without means, one table of relative positions for all layers (arXiv 1910.10683).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.models.layers import stacked
from ddjax.models.published import PublishedWeights
from ddjax.runtime.layout import ParameterLayout


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 encoder; the defaults are those of flan-T5-XL.

    Attributes:
      vocab_size: V.
      width: D, also of the features.
      heads: H.
      head_width: K of each; H K need not be D.
      layers: number of blocks.
      hidden: width inside of the gated MLP.
      dtype: of the computation; parameters, norms and softmax are float32.
    """

    vocab_size: int = 32128
    width: int = 2048
    heads: int = 32
    head_width: int = 64
    layers: int = 24
    hidden: int = 5120
    dtype: str = "float32"


# The published encoders, by name.
SIZES = {
    "small": {"width": 512, "heads": 6, "layers": 8, "hidden": 1024},
    "base": {"width": 768, "heads": 12, "layers": 12, "hidden": 2048},
    "large": {"width": 1024, "heads": 16, "layers": 24, "hidden": 2816},
    "xl": {"width": 2048, "heads": 32, "layers": 24, "hidden": 5120},
    "xxl": {"width": 4096, "heads": 64, "layers": 24, "hidden": 10240},
}

# Distances below 8 have a bucket each, then wider ones; the last is for 91 and all beyond.
_BUCKETS, _EXACT, _FARTHEST = 16, 8, 128


def position_buckets(tokens: int) -> np.ndarray:
    """Which row of the table of relative positions each pair reads, int [T, T] by query and key.

    Keys before a query, and itself, read the first 16 rows; keys behind it the other 16.
    """
    relative = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    distance = np.abs(relative)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(_EXACT))
    far = _EXACT + ratio / np.log(_FARTHEST / _EXACT) * (_BUCKETS - _EXACT)
    near = np.where(distance < _EXACT, distance, np.minimum(far.astype(int), _BUCKETS - 1))
    return near + _BUCKETS * (relative > 0)


class T5Norm(nnx.Module):
    """x / rms(x) over the last axis, times a learned scale, in float32; returns the type of x."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones((width,)))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        wide = x_BTD.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)
        return (normed * self.scale[None, None]).astype(x_BTD.dtype)


class T5Block(nnx.Module):
    """Self-attention without scaling, then a gated MLP, each behind a norm and with a residual.

    Args:
      config: sizes.
      rngs: of the initial weights.
    """

    def __init__(self, config: T5Config, rngs: nnx.Rngs) -> None:
        c = config
        inner = c.heads * c.head_width

        def linear(inputs: int, outputs: int, deviation: float) -> nnx.Linear:
            start = nnx.initializers.normal(deviation)
            return nnx.Linear(
                inputs, outputs, use_bias=False, dtype=jnp.dtype(c.dtype), kernel_init=start,
                rngs=rngs,
            )

        self.heads = c.heads
        self.attention_norm, self.mlp_norm = T5Norm(c.width), T5Norm(c.width)
        self.q = linear(c.width, inner, (c.width * c.head_width) ** -0.5)
        self.k = linear(c.width, inner, c.width**-0.5)
        self.v = linear(c.width, inner, c.width**-0.5)
        self.o = linear(inner, c.width, inner**-0.5)
        self.wi_0 = linear(c.width, c.hidden, c.width**-0.5)
        self.wi_1 = linear(c.width, c.hidden, c.width**-0.5)
        self.wo = linear(c.hidden, c.width, c.hidden**-0.5)

    def __call__(
        self, h_BTD: jax.Array, bias_1HTT: jax.Array, mask_B11T: jax.Array
    ) -> jax.Array:
        """Outputs [B, T, D].

        Args:
          h_BTD: inputs.
          bias_1HTT: of the relative positions, float32.
          mask_B11T: bool, which keys are tokens of the caption.
        """
        x = self.attention_norm(h_BTD)
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (layer(x).reshape(shape) for layer in (self.q, self.k, self.v))
        out = jax.nn.dot_product_attention(q, k, v, bias=bias_1HTT, mask=mask_B11T, scale=1.0)
        h_BTD = h_BTD + self.o(out.reshape(*x.shape[:2], -1))
        x = self.mlp_norm(h_BTD)
        return h_BTD + self.wo(jax.nn.gelu(self.wi_0(x)) * self.wi_1(x))


class T5Encoder(nnx.Module):
    """Features of token ids.

    Args:
      config: sizes.
      rngs: of the initial weights, whose deviations are those that T5 is trained from.
    """

    layout = ParameterLayout()
    Config = T5Config
    published = PublishedWeights("safetensors")

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        normal = nnx.initializers.normal
        self.embedding = nnx.Param(normal(1.0)(rngs.params(), (config.vocab_size, config.width)))
        self.positions = nnx.Param(
            normal(config.width**-0.5)(rngs.params(), (2 * _BUCKETS, config.heads))
        )
        self.blocks = stacked(lambda rngs: T5Block(config, rngs), config.layers, rngs)
        self.norm = T5Norm(config.width)

    def embed_text(self, ids_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
        """Features [B, T, D] float32; what stands in the padding means nothing.

        Args:
          ids_BT: token ids, int32.
          mask_BT: bool, which of them are the caption's, its end included.
        """
        bias = self.positions[...][position_buckets(ids_BT.shape[1])].transpose(2, 0, 1)[None]
        mask = mask_BT.astype(bool)[:, None, None]

        def body(h: jax.Array, block: T5Block) -> tuple[jax.Array, None]:
            return block(h, bias, mask), None

        h = self.embedding[...][ids_BT].astype(self.config.dtype)
        h, _ = jax.lax.scan(body, h, self.blocks)
        return self.norm(h.astype(jnp.float32))
