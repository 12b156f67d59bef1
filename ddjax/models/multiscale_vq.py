"""Multi-scale VQ tokenizer of VAR: image <-> ids of all scales, coarsest first.

Encoder and decoder are those of `ddjax.models.vq`; the quantiser is `ddjax.models.multiscale`.
Follows github.com/FoundationVision/VAR, so that its weights convert.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.protocols import Autoencoded
from ddjax.method.token_maps import TokenMaps
from ddjax.models import vq
from ddjax.models.multiscale import SCALES, Quantised, Quantiser, check_scales
from ddjax.models.published import PublishedWeights
from ddjax.runtime.layout import ParameterLayout


@dataclasses.dataclass(frozen=True)
class MultiscaleTokenizerConfig(vq.VQTokenizerConfig):
    """Sizes of the tokenizer: those of `ddjax.models.vq.VQTokenizerConfig`, and the scales.

    Attributes:
      scales: tokens a side of each scale; the last is the grid.
    """

    scales: tuple[int, ...] = SCALES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.scales)
        if self.scales[-1] != self.grid:
            raise ValueError(
                f"the last of scales {self.scales} must be image_size / {self.patch} = {self.grid}"
            )

    @property
    def token_maps(self) -> TokenMaps:
        """The scales."""
        return TokenMaps("scales", self.scales)


class MultiscaleTokenizer(nnx.Module):
    """A `ddjax.method.protocols.Tokenizer` whose codes are not normalised."""

    Config = MultiscaleTokenizerConfig
    layout = ParameterLayout()
    published = PublishedWeights("pth", {"scales": SCALES})

    def __init__(self, config: MultiscaleTokenizerConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        self.config = c
        self.encoder = vq.Encoder(c, rngs)
        self.quant_conv = vq.conv(c.z_channels, c.code_dim, 3, rngs)
        self.quantiser = Quantiser(c.scales, c.vocab_size, c.code_dim, rngs)
        self.post_quant_conv = vq.conv(c.code_dim, c.z_channels, 3, rngs)
        self.decoder = vq.Decoder(c, rngs)

    @property
    def codebook(self) -> jax.Array:
        """[V, C] float32, not normalised."""
        return self.quantiser.codebook

    def features(self, images: jax.Array) -> jax.Array:
        """Vectors [B, L, C] before quantisation, all scales; images [B, H, W, channels]."""
        return self._quantised(images).features_BLC

    def encode(self, images: jax.Array) -> jax.Array:
        """Ids [B, L] of images [B, H, W, channels] in [-1, 1]: scales in turn, each in raster."""
        return self._quantised(images).ids_BL

    def decode(self, x_BLC: jax.Array) -> jax.Array:
        """Images [B, H, W, channels] in [-1, 1] of code vectors taken as they are."""
        f = self.quantiser.maps(x_BLC)[-1]
        return jnp.clip(self.decoder(self.post_quant_conv(f)), -1, 1)

    def autoencode(self, images: jax.Array) -> Autoencoded:
        """See `ddjax.method.protocols.Tokenizer`."""
        found = self._quantised(images)
        image = self.decoder(self.post_quant_conv(found.map_BHWC))
        return Autoencoded(image, *found[1:])

    def with_codes(self, codes_VC: jax.Array) -> "MultiscaleTokenizer":
        """The same tokenizer with another codebook."""
        changed = jax.tree.map(lambda leaf: leaf, self)
        changed.quantiser.embedding = nnx.Param(codes_VC)
        return changed

    def _quantised(self, images: jax.Array) -> Quantised:
        return self.quantiser.quantise(self.quant_conv(self.encoder(images)))
