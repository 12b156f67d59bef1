"""CLIP: images and texts as vectors of one space, whose angle says how well they go together.

Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020). Follows
the vision transformers of github.com/openai/CLIP, so that their weights convert.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.codes import unit
from ddjax.models.clip_pixels import clip_pixels
from ddjax.models.layers import stacked
from ddjax.models.published import PublishedWeights
from ddjax.runtime.layout import ParameterLayout


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both towers; the defaults are those of ViT-B/32.

    Attributes:
      embedding: E, width of the vectors.
      resolution: pixels a side that the image tower reads; a multiple of `patch`.
      patch: pixels a side of a patch.
      image_width: D of the image tower.
      image_heads: H there; divides the width.
      image_layers: blocks there.
      vocab_size: V, of the texts' tokens; the last of them is the end of a text.
      text_tokens: T, the most tokens of a text.
      text_width: D of the text tower.
      text_heads: H there; divides the width.
      text_layers: blocks there.
      dtype: of the computation; parameters, norms and softmax are float32.
    """

    embedding: int = 512
    resolution: int = 224
    patch: int = 32
    image_width: int = 768
    image_heads: int = 12
    image_layers: int = 12
    vocab_size: int = 49408
    text_tokens: int = 77
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for size, part in (("resolution", "patch"), ("image_width", "image_heads"),
                           ("text_width", "text_heads")):
            if getattr(self, size) % getattr(self, part):
                raise ValueError(
                    f"{size} {getattr(self, size)} is not a multiple of {part} "
                    f"{getattr(self, part)}"
                )


_LARGE = {
    "embedding": 768, "patch": 14, "image_width": 1024, "image_heads": 16, "image_layers": 24,
    "text_width": 768, "text_heads": 12,
}
# The published vision transformers, by the names of their files.
SIZES = {
    "ViT-B-32": {},
    "ViT-B-16": {"patch": 16},
    "ViT-L-14": _LARGE,
    "ViT-L-14-336px": {**_LARGE, "resolution": 336},
}


def _norm(width: int, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        width, epsilon=1e-5, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs
    )


class CLIPBlock(nnx.Module):
    """Self-attention, then an MLP with QuickGELU, each behind a norm and with a residual.

    Args:
      width: D.
      heads: H; divides the width.
      causal: whether a position sees none behind it.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(
        self, width: int, heads: int, causal: bool, dtype: str, rngs: nnx.Rngs
    ) -> None:
        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, dtype=jnp.dtype(dtype), rngs=rngs)

        self.heads, self.causal = heads, causal
        self.attention_norm, self.mlp_norm = (_norm(width, dtype, rngs) for _ in range(2))
        self.q, self.k, self.v, self.o = (linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = linear(width, 4 * width), linear(4 * width, width)

    def __call__(self, h_BSD: jax.Array) -> jax.Array:
        x = self.attention_norm(h_BSD)
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (layer(x).reshape(shape) for layer in (self.q, self.k, self.v))
        out = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        h_BSD = h_BSD + self.o(out.reshape(x.shape))
        x = self.fc1(self.mlp_norm(h_BSD))
        return h_BSD + self.fc2(x * jax.nn.sigmoid(1.702 * x))


def _run(blocks: CLIPBlock, h_BSD: jax.Array) -> jax.Array:
    """Through stacked blocks, one after another."""

    def body(h: jax.Array, block: CLIPBlock) -> tuple[jax.Array, None]:
        return block(h), None

    return jax.lax.scan(body, h_BSD, blocks)[0]


class CLIPImageTower(nnx.Module):
    """A vision transformer: pixels [B, R, R, 3], normalised, to vectors [B, E] of any length."""

    def __init__(self, config: CLIPConfig, rngs: nnx.Rngs) -> None:
        c, width = config, config.image_width
        start = nnx.initializers.normal(width**-0.5)
        patches = (c.resolution // c.patch) ** 2
        self.patches = nnx.Conv(
            3, width, (c.patch, c.patch), strides=c.patch, padding="VALID", use_bias=False,
            dtype=jnp.dtype(c.dtype), rngs=rngs,
        )
        self.start = nnx.Param(start(rngs.params(), (width,)))
        self.positions = nnx.Param(start(rngs.params(), (1 + patches, width)))
        self.first_norm = _norm(width, c.dtype, rngs)
        self.blocks = stacked(
            lambda rngs: CLIPBlock(width, c.image_heads, False, c.dtype, rngs), c.image_layers, rngs
        )
        self.norm = _norm(width, "float32", rngs)
        self.projection = nnx.Param(start(rngs.params(), (width, c.embedding)))

    def __call__(self, pixels: jax.Array) -> jax.Array:
        h = self.patches(pixels)
        h = h.reshape(len(h), -1, h.shape[-1])
        first = jnp.broadcast_to(self.start[...].astype(h.dtype), (len(h), 1, h.shape[-1]))
        h = jnp.concatenate([first, h], axis=1) + self.positions[...].astype(h.dtype)[None]
        h = _run(self.blocks, self.first_norm(h))
        return jnp.einsum("bd,de->be", self.norm(h[:, 0]), self.projection[...])


class CLIPTextTower(nnx.Module):
    """A causal transformer: token ids [B, T] to vectors [B, E] of any length, read at the end."""

    def __init__(self, config: CLIPConfig, rngs: nnx.Rngs) -> None:
        c, width, normal = config, config.text_width, nnx.initializers.normal
        self.embedding = nnx.Param(normal(0.02)(rngs.params(), (c.vocab_size, width)))
        self.positions = nnx.Param(normal(0.01)(rngs.params(), (c.text_tokens, width)))
        self.blocks = stacked(
            lambda rngs: CLIPBlock(width, c.text_heads, True, c.dtype, rngs), c.text_layers, rngs
        )
        self.norm = _norm(width, "float32", rngs)
        self.projection = nnx.Param(normal(width**-0.5)(rngs.params(), (width, c.embedding)))
        self.dtype = c.dtype

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        h = self.embedding[...][ids_BT] + self.positions[: ids_BT.shape[1]][None]
        h = _run(self.blocks, h.astype(self.dtype))
        # The end of a text has the largest id; what stands behind the first is padding.
        end_B11 = jnp.argmax(ids_BT, axis=1)[:, None, None]
        h_BD = jnp.take_along_axis(h, end_B11, axis=1)[:, 0]
        return jnp.einsum("bd,de->be", self.norm(h_BD), self.projection[...])


class CLIP(nnx.Module):
    """Both towers: an `ImageTextNet`.

    Args:
      config: sizes.
      rngs: of the initial weights.
    """

    layout = ParameterLayout()
    Config = CLIPConfig
    published = PublishedWeights("pt")

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.image, self.text = CLIPImageTower(config, rngs), CLIPTextTower(config, rngs)
        # Training multiplies cosines by its exponential; kept for the way back to PyTorch.
        self.logit_scale = nnx.Param(jnp.array(math.log(1 / 0.07), jnp.float32))

    def embed_images(self, images: jax.Array) -> jax.Array:
        """Unit vectors [B, E], float32, of images [B, H, W, 3] in [-1, 1] of any size."""
        return unit(self.image(clip_pixels(images, self.config.resolution)))

    def embed_texts(self, ids_BT: jax.Array) -> jax.Array:
        """Unit vectors [B, E], float32, of token ids, int32; see `ddjax.data.byte_pairs`."""
        return unit(self.text(ids_BT))
