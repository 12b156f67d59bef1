"""VQ tokenizer of LlamaGen (VQ-16, VQ-8 and any smaller): image <-> ids.

Channels last; follows github.com/FoundationVision/LlamaGen, so that its weights convert.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method import codes
from ddjax.method.codes import unit
from ddjax.method.protocols import Autoencoded
from ddjax.method.token_maps import TokenMaps
from ddjax.models import straight_through
from ddjax.models.published import PublishedWeights
from ddjax.runtime.layout import ParameterLayout


@dataclasses.dataclass(frozen=True)
class VQTokenizerConfig:
    """Sizes of the tokenizer; one token covers 2^(len(multipliers) - 1) pixels a side.

    Attributes:
      image_size: pixels a side.
      image_channels: 1 or 3.
      vocab_size: V, number of codes.
      code_dim: C, width of a code.
      channels: of the convolutions at full resolution.
      multipliers: of the channels at each resolution, from full to lowest.
      blocks: residual blocks at each resolution of the encoder; the decoder has one more.
      z_channels: of the feature map between encoder and quantiser.
      norm_groups: of the group norms.
    """

    image_size: int
    image_channels: int
    vocab_size: int
    code_dim: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    z_channels: int
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of {self.patch} = "
                f"2^(number of multipliers - 1)"
            )
        if self.channels % self.norm_groups:
            raise ValueError(
                f"channels {self.channels} is not a multiple of norm_groups {self.norm_groups}"
            )

    @property
    def patch(self) -> int:
        """Pixels per token and side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """Tokens per side."""
        return self.image_size // self.patch

    @property
    def token_maps(self) -> TokenMaps:
        """One map."""
        return TokenMaps("image_size", (self.grid,))


def conv(channels_in: int, channels_out: int, size: int, rngs: nnx.Rngs) -> nnx.Conv:
    """A square convolution that keeps the size.

    Args:
      channels_in: of the input.
      channels_out: of the output.
      size: of the kernel.
      rngs: of the initial weights.
    """
    return nnx.Conv(channels_in, channels_out, (size, size), rngs=rngs)


def enlarge(layer: nnx.Conv, x: jax.Array) -> jax.Array:
    """A 3x3 convolution of a map whose pixels are repeated twice along each axis.

    The enlarged map is not made: of its nine pixels under a kernel several are the same, so that
    each of the four kinds of output is a 2x2 convolution of the map itself. That takes 4 products
    in place of 9.

    Args:
      layer: the convolution.
      x: [B, h, w, inner].

    Returns:
      [B, 2h, 2w, outer].
    """
    batch, h, w, inner = x.shape
    rows = jnp.moveaxis(_folded(layer.kernel[...]), 2, 0)
    # Of columns and of rows: [kind, tap, kind, tap, inner, outer].
    kernel = _folded(rows).transpose(3, 1, 4, 2, 0, 5).reshape(2, 2, inner, -1)
    found = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(batch, h + 1, w + 1, 2, 2, -1)
    pixels = (
        jnp.stack([found[:, a : a + h, b : b + w, a, b] for b in (0, 1)], axis=3) for a in (0, 1)
    )
    whole = jnp.stack(list(pixels), axis=2).reshape(batch, 2 * h, 2 * w, -1)
    return whole + jnp.broadcast_to(layer.bias[...], whole.shape)


def _folded(taps: jax.Array) -> jax.Array:
    """Three taps along an axis, [3, ...], as two on the map before: [2, 2, ...], by kind of pixel.

    Of three neighbours in the enlarged map two are the same pixel of the map before.
    """
    first, middle, last = taps
    return jnp.stack([jnp.stack([first, middle + last]), jnp.stack([first + middle, last])])


class NormSwish(nnx.Module):
    """Group norm, then x * sigmoid(x); the shape stays."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs) -> None:
        self.norm = nnx.GroupNorm(channels, num_groups=groups, epsilon=1e-6, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.silu(self.norm(x))


class ResBlock(nnx.Module):
    """Two 3x3 convolutions with a residual: [B, h, w, inner] -> [B, h, w, outer].

    Args:
      inner: channels of the input; where they change, the residual goes through a 1x1 convolution.
      outer: channels of the output.
      groups: of the group norms.
      rngs: of the initial weights.
    """

    def __init__(self, inner: int, outer: int, groups: int, rngs: nnx.Rngs) -> None:
        self.norm1 = NormSwish(inner, groups, rngs)
        self.conv1 = conv(inner, outer, 3, rngs)
        self.norm2 = NormSwish(outer, groups, rngs)
        self.conv2 = conv(outer, outer, 3, rngs)
        self.shortcut = conv(inner, outer, 1, rngs) if inner != outer else None

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return (x if self.shortcut is None else self.shortcut(x)) + h


class AttentionBlock(nnx.Module):
    """Single-head self-attention over the positions of [B, h, w, channels], with a residual."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs) -> None:
        self.norm = nnx.GroupNorm(channels, num_groups=groups, epsilon=1e-6, rngs=rngs)
        self.q, self.k, self.v, self.out = (conv(channels, channels, 1, rngs) for _ in range(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.norm(x)
        flat = (x.shape[0], -1, 1, x.shape[-1])
        q, k, v = (part(h).reshape(flat) for part in (self.q, self.k, self.v))
        return x + self.out(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


class VQLevel(nnx.Module):
    """The residual blocks of one resolution: [B, h, w, inner] -> [B, h, w, outer].

    Args:
      inner: channels of the input.
      outer: channels of each block.
      blocks: how many.
      attention: whether attention follows each block.
      groups: of the group norms.
      rngs: of the initial weights.
    """

    def __init__(
        self, inner: int, outer: int, blocks: int, attention: bool, groups: int, rngs: nnx.Rngs
    ) -> None:
        widths = [inner] + [outer] * (blocks - 1)
        self.res = nnx.List([ResBlock(width, outer, groups, rngs) for width in widths])
        attend = range(blocks if attention else 0)
        self.attn = nnx.List([AttentionBlock(outer, groups, rngs) for _ in attend])

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, res in enumerate(self.res):
            x = res(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class Middle(nnx.Module):
    """Residual block, attention, residual block on the lowest resolution's [B, h, w, channels]."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs) -> None:
        self.res1 = ResBlock(channels, channels, groups, rngs)
        self.attn = AttentionBlock(channels, groups, rngs)
        self.res2 = ResBlock(channels, channels, groups, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.res2(self.attn(self.res1(x)))


class Encoder(nnx.Module):
    """Image [B, H, W, channels] in [-1, 1] -> features [B, h, w, z_channels]."""

    def __init__(self, c: VQTokenizerConfig, rngs: nnx.Rngs) -> None:
        widths = [c.channels * m for m in c.multipliers]
        last = len(widths) - 1
        self.conv_in = conv(c.image_channels, c.channels, 3, rngs)
        self.levels = nnx.List(
            [
                VQLevel(inner, outer, c.blocks, i == last, c.norm_groups, rngs)
                for i, (inner, outer) in enumerate(
                    zip([c.channels, *widths], widths, strict=False)
                )
            ]
        )
        # The original pads right and bottom only.
        self.down = nnx.List(
            [
                nnx.Conv(w, w, (3, 3), strides=2, padding=((0, 1), (0, 1)), rngs=rngs)
                for w in widths[:-1]
            ]
        )
        self.middle = Middle(widths[-1], c.norm_groups, rngs)
        self.norm_out = NormSwish(widths[-1], c.norm_groups, rngs)
        self.conv_out = conv(widths[-1], c.z_channels, 3, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.conv_in(x)
        for i, level in enumerate(self.levels):
            h = level(h)
            if i < len(self.down):
                h = self.down[i](h)
        return self.conv_out(self.norm_out(self.middle(h)))


class Decoder(nnx.Module):
    """Features [B, h, w, z_channels] -> image [B, H, W, channels], not clamped."""

    def __init__(self, c: VQTokenizerConfig, rngs: nnx.Rngs) -> None:
        widths = [c.channels * m for m in reversed(c.multipliers)]
        self.conv_in = conv(c.z_channels, widths[0], 3, rngs)
        self.middle = Middle(widths[0], c.norm_groups, rngs)
        self.levels = nnx.List(
            [
                VQLevel(inner, outer, c.blocks + 1, i == 0, c.norm_groups, rngs)
                for i, (inner, outer) in enumerate(zip([widths[0], *widths], widths, strict=False))
            ]
        )
        self.up = nnx.List([conv(w, w, 3, rngs) for w in widths[:-1]])
        self.norm_out = NormSwish(widths[-1], c.norm_groups, rngs)
        self.conv_out = conv(widths[-1], c.image_channels, 3, rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        h = self.middle(self.conv_in(z))
        for i, level in enumerate(self.levels):
            h = level(h)
            if i < len(self.up):
                h = enlarge(self.up[i], h)
        return self.conv_out(self.norm_out(h))


class VQTokenizer(nnx.Module):
    """A `ddjax.method.protocols.Tokenizer` whose codes have norm 1."""

    Config = VQTokenizerConfig
    layout = ParameterLayout()
    published = PublishedWeights("pt")

    def __init__(self, config: VQTokenizerConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.encoder = Encoder(config, rngs)
        self.quant_conv = conv(config.z_channels, config.code_dim, 1, rngs)
        shape = (config.vocab_size, config.code_dim)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.post_quant_conv = conv(config.code_dim, config.z_channels, 1, rngs)
        self.decoder = Decoder(config, rngs)

    @property
    def codebook(self) -> jax.Array:
        """[V, C] float32, rows of norm 1."""
        return unit(self.embedding[...])

    def features(self, images: jax.Array) -> jax.Array:
        """Vectors [B, L, C] before quantisation, of norm 1; images [B, H, W, channels]."""
        z = self.quant_conv(self.encoder(images))
        return unit(z.reshape(z.shape[0], -1, z.shape[-1]))

    def encode(self, images: jax.Array) -> jax.Array:
        """Ids [B, L] of images [B, H, W, channels] in [-1, 1], in raster order."""
        return codes.nearest_ids(self.features(images), self.codebook)

    def decode(self, x_BLC: jax.Array) -> jax.Array:
        """Images [B, H, W, channels], about in [-1, 1], of code vectors taken as they are."""
        grid = self.config.grid
        z = x_BLC.reshape(x_BLC.shape[0], grid, grid, x_BLC.shape[-1])
        return self.decoder(self.post_quant_conv(z))

    def autoencode(self, images: jax.Array) -> Autoencoded:
        """See `ddjax.method.protocols.Tokenizer`."""
        return straight_through.autoencode(self, images)

    def with_codes(self, codes_VC: jax.Array) -> "VQTokenizer":
        """The same tokenizer with another codebook, normalised."""
        changed = jax.tree.map(lambda leaf: leaf, self)
        changed.embedding = nnx.Param(codes_VC)
        return changed
