"""LlamaGen's trunk, which teacher and student share: condition, blocks, logits head.

Follows github.com/FoundationVision/LlamaGen, so that its weights convert.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.groups import Groups
from ddjax.method.token_maps import TokenMaps
from ddjax.models import condition_embed
from ddjax.models.transformer import RMSNorm, Transformer, rope_table

# The published sizes; class-conditional are B to 3B, text-conditional XL, 1B, 3B and 7B.
SIZES = {
    name: {"layers": count, "heads": heads, "width": width}
    for name, count, heads, width in (
        ("B", 12, 12, 768),
        ("L", 24, 16, 1024),
        ("XL", 36, 20, 1280),
        ("XXL", 48, 24, 1536),
        ("XXXL", 48, 40, 2560),
        ("1B", 22, 32, 2048),
        ("3B", 24, 32, 3200),
        ("7B", 32, 32, 4096),
    )
}


@dataclasses.dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes of the transformer; teacher and student share them.

    Attributes:
      vocab_size: V, number of codes.
      code_dim: C, width of a code; what the student reads and writes.
      grid: tokens per side of the image; the sequence has grid^2, in raster order.
      width: D.
      layers: number of blocks.
      heads: number of heads; divides the width into even head widths.
      num_classes: number of labels; the next one is the null label. 0 with captions.
      caption_tokens: T, tokens of a caption; 0 for a condition on classes.
      caption_dim: E, width of a caption's features; 0 for a condition on classes.
      dtype: of the computation; parameters, norms, softmax and logits are float32.
    """

    vocab_size: int
    code_dim: int
    grid: int
    width: int
    layers: int
    heads: int
    num_classes: int = 0
    caption_tokens: int = 0
    caption_dim: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width // self.heads % 4:
            raise ValueError(
                f"width / heads = {self.width // self.heads} must be a multiple of 4, "
                "two axes of rotary pairs"
            )
        asked = (self.num_classes > 0, self.caption_tokens > 0, self.caption_dim > 0)
        if asked not in ((True, False, False), (False, True, True)):
            raise ValueError(
                f"num_classes {self.num_classes}, caption_tokens {self.caption_tokens}, "
                f"caption_dim {self.caption_dim}: either the first or the last two must be above 0"
            )

    @property
    def token_maps(self) -> TokenMaps:
        """One map."""
        return TokenMaps("grid", (self.grid,))

    @property
    def groups(self) -> Groups:
        """Single tokens in raster order."""
        return Groups((1,) * self.grid**2)


class LlamaGenTrunk(nnx.Module):
    """Condition embedding, blocks, last norm and logits head."""

    def __init__(self, config: LlamaGenConfig, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.condition = condition_embed.make(c, dtype, rngs)
        self.transformer = Transformer(c.width, c.heads, c.layers, dtype, rngs)
        self.norm = RMSNorm(c.width)
        self.head = nnx.Linear(
            c.width, c.vocab_size, use_bias=False, dtype=dtype,
            preferred_element_type=jnp.float32, rngs=rngs,
        )
        self.grid, self.head_width = c.grid, c.width // c.heads

    @property
    def dtype(self) -> jnp.dtype:
        """Of the computation."""
        return self.transformer.dtype

    def rope(self) -> jax.Array:
        """The rotary table [T + L, head width / 2, 2] of all positions, condition first."""
        return jnp.asarray(
            rope_table(self.grid, self.head_width, self.condition.tokens)
        )

    def logits(self, h_BSD: jax.Array) -> jax.Array:
        """[B, S, V] float32."""
        return self.head(self.norm(h_BSD))


def causal_mask(
    valid_BT: jax.Array, queries: int, keys: int, position: jax.Array | int = 0
) -> jax.Array:
    """Which keys a query sees: all earlier ones, and itself.

    Condition tokens that do not count are seen by themselves only.

    Args:
      valid_BT: which condition tokens count.
      queries: how many.
      keys: how many, from position 0.
      position: of the first query.

    Returns:
      bool [B, 1, queries, keys].
    """
    query = position + jnp.arange(queries)[None, :, None]
    key = jnp.arange(keys)[None, None]
    valid = jnp.pad(valid_BT, ((0, 0), (0, keys - valid_BT.shape[1])), constant_values=True)
    return (((key < query) & valid[:, None]) | (key == query))[:, None]
