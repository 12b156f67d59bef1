"""VAR's trunk, which teacher and student share: embeddings, scanned blocks, logits head."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.groups import Groups
from ddjax.method.token_maps import TokenMaps
from ddjax.models import layers
from ddjax.models.condition_embed import ClassEmbedding
from ddjax.models.multiscale import SCALES, check_scales
from ddjax.models.var_blocks import Modulation, VARBlock, VARCache
from ddjax.runtime import sharding
from ddjax.runtime.layout import ParameterLayout

# Depths that were published for images of 256 pixels.
SIZES = {f"d{n}": {"layers": n, "heads": n, "width": 64 * n} for n in (16, 20, 24, 30)}


@dataclasses.dataclass(frozen=True)
class VARConfig:
    """Sizes of the transformer; teacher and student share them.

    Attributes:
      vocab_size: V, number of codes.
      code_dim: C, width of a code; what teacher and student read.
      width: D.
      layers: number of blocks.
      heads: number of heads; divides the width.
      num_classes: number of labels; the next one is the null label.
      scales: tokens a side of each scale, from 1 up.
      dtype: of the computation; parameters are float32.
    """

    vocab_size: int
    code_dim: int
    width: int
    layers: int
    heads: int
    num_classes: int
    scales: tuple[int, ...] = SCALES
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_scales(self.scales)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")

    @property
    def token_maps(self) -> TokenMaps:
        """The scales."""
        return TokenMaps("scales", self.scales)

    @property
    def groups(self) -> Groups:
        """The scales."""
        return Groups(tuple(size**2 for size in self.scales))


class Between(NamedTuple):
    """What the student adds in every block: a row for positions of noise, one for data."""

    is_data_BS: jax.Array
    rows_N2D: jax.Array  # for each of N blocks: noise, data


class VARTrunk(nnx.Module):
    """A sequence cut into `levels`: the condition at its first position, then code vectors."""

    layout = ParameterLayout()

    def __init__(self, config: VARConfig, levels: Groups, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        small = nnx.initializers.normal(0.02)
        self.levels, self.dtype = levels, dtype
        self.condition = ClassEmbedding(c.num_classes, c.width, rngs)
        self.code_embed = nnx.Linear(c.code_dim, c.width, dtype=dtype, rngs=rngs)
        self.start = nnx.Param(small(rngs.params(), (c.width,)))
        self.level_embed = nnx.Param(small(rngs.params(), (levels.count, c.width)))
        self.position_embed = nnx.Param(small(rngs.params(), (levels.length, c.width)))
        self.blocks = layers.stacked(
            lambda rngs: VARBlock(c.width, c.heads, dtype, rngs), c.layers, rngs
        )
        self.head_modulation = Modulation(c.width, 2, rngs)
        self.head = nnx.Linear(
            c.width, c.vocab_size, dtype=dtype, preferred_element_type=jnp.float32, rngs=rngs
        )

    def embed(self, condition_B1D: jax.Array, x_BSC: jax.Array) -> jax.Array:
        """[B, 1 + S, D]: the condition, then code vectors from the second position on."""
        first = condition_B1D + self.start[None, None]
        h = jnp.concatenate([first.astype(self.dtype), self.code_embed(x_BSC)], axis=1)
        return self.place(h, 0)

    def place(self, h_BSD: jax.Array, position: int) -> jax.Array:
        """Add the embeddings of level and position to [B, S, D]; `position` is the first of S."""
        table = self.level_embed[self.levels.of_token] + self.position_embed[...]
        return (h_BSD + table[None, position : position + h_BSD.shape[1]]).astype(self.dtype)

    def modulated(self, condition_B1D: jax.Array) -> list[jax.Array]:
        """What the condition makes in all N blocks, [N, B, 1, D] each.

        It is the same for all scales, and its weights are a third of a block's: made once, they
        are not read again for every scale.
        """
        return jax.lax.map(lambda modulation: modulation(condition_B1D), self.blocks.modulation)

    def __call__(
        self,
        h_BSD: jax.Array,
        condition_B1D: jax.Array,
        mask: jax.Array | None,
        cache: VARCache | None = None,
        between: Between | None = None,
        modulation: list[jax.Array] | None = None,
    ) -> tuple[jax.Array, VARCache | None]:
        """Run all blocks.

        Args:
          h_BSD: inputs at S positions.
          condition_B1D: of the adaptive norms.
          mask: bool [1, 1, S, S]: which keys a query sees; None for all.
          cache: keys and values of earlier positions, [N, B, T, H, K]; all of them are seen.
          between: added in every block behind the attention.
          modulation: of all blocks, where `modulated` has made it for several calls.

        Returns:
          h [B, S, D] and the cache, longer by S.
        """

        def body(h: jax.Array, block: VARBlock, others: tuple) -> tuple:
            layer_cache, rows_2D, vectors = others
            added = None if rows_2D is None else noise_or_data(between.is_data_BS, rows_2D)
            vectors = block.modulation(condition_B1D) if vectors is None else vectors
            return block(h, vectors, mask, added, layer_cache)

        rows = None if between is None else between.rows_N2D.astype(self.dtype)
        others = (cache, rows, modulation)
        return sharding.scan_gathered(
            body, h_BSD, self.blocks, others, layout=self.layout, unroll=layers.UNROLL
        )

    def logits(self, h_BSD: jax.Array, condition_B1D: jax.Array) -> jax.Array:
        """[B, S, V] float32."""
        scale, shift = self.head_modulation(condition_B1D)
        return self.head(layers.adaptive_norm(h_BSD, scale, shift))


def noise_or_data(is_data_BS: jax.Array, rows_2D: jax.Array) -> jax.Array:
    """[B, S, D]: the second row where a position is data, else the first."""
    noise, data = rows_2D[:, None, None]
    return jnp.where(is_data_BS[..., None], data, noise)
