"""Patch VQ tokenizer for small images: one token a patch, trained in seconds on a CPU.

The encoder sees its own patch only, so that a token means the same everywhere and a wrong token
stays a local error; the decoder also sees the neighbours, to smooth the edges between patches.
"""

import dataclasses

import jax
from flax import nnx

from ddjax.method import codes
from ddjax.method.codes import unit
from ddjax.method.protocols import Autoencoded
from ddjax.method.token_maps import TokenMaps
from ddjax.models import straight_through
from ddjax.runtime.layout import ParameterLayout


@dataclasses.dataclass(frozen=True)
class PatchTokenizerConfig:
    """Sizes.

    Attributes:
      image_size: pixels a side.
      image_channels: 1 or 3.
      patch: pixels a side of what one token covers.
      vocab_size: V, number of codes.
      code_dim: C, width of a code.
      width: of the hidden layers.
    """

    image_size: int
    image_channels: int
    patch: int
    vocab_size: int
    code_dim: int
    width: int

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch {self.patch}"
            )

    @property
    def grid(self) -> int:
        """Tokens per side."""
        return self.image_size // self.patch

    @property
    def token_maps(self) -> TokenMaps:
        """One map."""
        return TokenMaps("image_size", (self.grid,))


class PatchTokenizer(nnx.Module):
    """A `ddjax.method.protocols.Tokenizer` whose codes have norm 1."""

    Config = PatchTokenizerConfig
    layout = ParameterLayout()
    published = None

    def __init__(self, config: PatchTokenizerConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        self.config = c
        pixels = c.patch**2 * c.image_channels
        self.encode_in = nnx.Linear(pixels, c.width, rngs=rngs)
        self.encode_out = nnx.Linear(c.width, c.code_dim, rngs=rngs)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (c.vocab_size, c.code_dim)))
        self.decode_in = nnx.Conv(c.code_dim, c.width, (3, 3), rngs=rngs)
        self.decode_out = nnx.Conv(c.width, pixels, (1, 1), rngs=rngs)

    @property
    def codebook(self) -> jax.Array:
        """[V, C] float32, rows of norm 1."""
        return unit(self.embedding[...])

    def features(self, images: jax.Array) -> jax.Array:
        """Vectors [B, L, C] before quantisation, of norm 1; images [B, H, W, channels]."""
        c = self.config
        cells = images.reshape(-1, c.grid, c.patch, c.grid, c.patch, c.image_channels)
        flat = cells.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), c.grid**2, -1)
        return unit(self.encode_out(jax.nn.gelu(self.encode_in(flat))))

    def encode(self, images: jax.Array) -> jax.Array:
        """Ids [B, L] of images [B, H, W, channels] in [-1, 1], in raster order."""
        return codes.nearest_ids(self.features(images), self.codebook)

    def decode(self, x_BLC: jax.Array) -> jax.Array:
        """Images [B, H, W, channels], about in [-1, 1], of code vectors taken as they are."""
        c = self.config
        z = x_BLC.reshape(-1, c.grid, c.grid, c.code_dim)
        cells = self.decode_out(jax.nn.gelu(self.decode_in(z)))
        cells = cells.reshape(-1, c.grid, c.grid, c.patch, c.patch, c.image_channels)
        return cells.transpose(0, 1, 3, 2, 4, 5).reshape(
            -1, c.image_size, c.image_size, c.image_channels
        )

    def autoencode(self, images: jax.Array) -> Autoencoded:
        """See `ddjax.method.protocols.Tokenizer`."""
        return straight_through.autoencode(self, images)

    def with_codes(self, codes_VC: jax.Array) -> "PatchTokenizer":
        """The same tokenizer with another codebook, normalised."""
        changed = jax.tree.map(lambda leaf: leaf, self)
        changed.embedding = nnx.Param(codes_VC)
        return changed
