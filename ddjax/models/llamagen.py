"""LlamaGen's class-conditional GPT as a teacher, and the student that starts from it.

The GPT follows github.com/FoundationVision/LlamaGen, the student the released Distilled Decoding
code, so that published weights of both convert.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.groups import Groups
from ddjax.models import layers


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Sizes of the GPT; teacher and student share them.

    Attributes:
      vocab_size: V, number of codes.
      code_dim: C, width of a code; what the student reads and writes.
      grid: tokens per side of the image; the sequence has grid^2, in raster order.
      width: D.
      layers: number of blocks.
      heads: number of heads; divides the width into even head widths.
      num_classes: class `num_classes` itself stands for "no condition".
      dtype: of the computation; parameters are float32.
    """

    vocab_size: int
    code_dim: int
    grid: int
    width: int
    layers: int
    heads: int
    num_classes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width // self.heads % 4:
            raise ValueError(
                f"width / heads = {self.width // self.heads} must be a multiple of 4, "
                "two axes of rotary pairs"
            )

    @property
    def groups(self) -> Groups:
        """Single tokens in raster order."""
        return Groups((1,) * self.grid**2)


class Trunk(nnx.Module):
    """What teacher and student have in common: condition, blocks, last norm, logits head."""

    condition_tokens = 1

    def __init__(self, config: GPTConfig, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.class_embed = nnx.Embed(c.num_classes + 1, c.width, rngs=rngs)
        self.transformer = layers.Transformer(c.width, c.heads, c.layers, dtype, rngs)
        self.norm = layers.RMSNorm(c.width)
        self.head = nnx.Linear(c.width, c.vocab_size, use_bias=False, dtype=dtype, rngs=rngs)
        self.grid, self.head_width = c.grid, c.width // c.heads

    def rope(self) -> jax.Array:
        """The rotary table of all positions, condition first."""
        return jnp.asarray(layers.rope_table(self.grid, self.head_width, self.condition_tokens))

    def logits(self, h_BSD: jax.Array) -> jax.Array:
        """[B, S, V] float32."""
        return self.head(self.norm(h_BSD)).astype(jnp.float32)


def causal_mask(queries: int, keys: int, position: jax.Array | int = 0) -> jax.Array:
    """Bool [1, 1, S, T]: the query at position + i sees the keys up to its own position."""
    q = position + jnp.arange(queries)[:, None]
    return (jnp.arange(keys)[None] <= jnp.broadcast_to(q, (queries, keys)))[None, None]


class Teacher(nnx.Module):
    """The teacher's side of the seam: groups, null, logits, prefill, step.

    A condition is a label per image, [B] int32. Groups are single tokens.
    """

    Config = GPTConfig

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.trunk = Trunk(config, rngs)
        self.token_embed = nnx.Embed(config.vocab_size, config.width, rngs=rngs)

    @property
    def groups(self) -> Groups:
        """The order in which tokens are predicted."""
        return self.config.groups

    def null(self, condition: jax.Array) -> jax.Array:
        """The condition that says nothing, in the shape of `condition`."""
        return jnp.full_like(condition, self.config.num_classes)

    def logits(self, ids_BL: jax.Array, condition: jax.Array) -> jax.Array:
        """Teacher forcing: logits [B, L, V] of every token given the groups before its own."""
        h = self._embed(condition, ids_BL[:, :-1])
        length = h.shape[1]
        h, _ = self.trunk.transformer(h, self.trunk.rope()[:length], causal_mask(length, length))
        return self.trunk.logits(h)

    def prefill(
        self, condition: jax.Array, ids_BP: jax.Array
    ) -> tuple[jax.Array, layers.Cache]:
        """Read condition and the ids of the first n groups.

        Returns:
          logits [B, size of group n, V] of group n, and the cache for `step`.
        """
        h = self._embed(condition, ids_BP)
        length = self.groups.length
        cache = self.trunk.transformer.init_cache(h.shape[0], length)
        rope = self.trunk.rope()[: h.shape[1]]
        h, cache = self.trunk.transformer(h, rope, causal_mask(h.shape[1], length), cache)
        return self.trunk.logits(h[:, -1:]), cache

    def step(
        self, ids_BS: jax.Array, group: jax.Array | int, cache: layers.Cache
    ) -> tuple[jax.Array, layers.Cache]:
        """Append the ids of `group`; logits [B, size of group + 1, V] of the group behind it."""
        position = group + self.trunk.condition_tokens
        rope = jax.lax.dynamic_slice_in_dim(self.trunk.rope(), position, 1)
        mask = causal_mask(1, self.groups.length, position)
        h = self.token_embed(ids_BS).astype(self.trunk.transformer.dtype)
        h, cache = self.trunk.transformer(h, rope, mask, cache, position)
        return self.trunk.logits(h), cache

    def _embed(self, condition: jax.Array, ids: jax.Array) -> jax.Array:
        classes = self.trunk.class_embed(condition)[:, None]
        h = jnp.concatenate([classes, self.token_embed(ids)], axis=1)
        return h.astype(self.trunk.transformer.dtype)


class Student(nnx.Module):
    """The one-pass student: reads X_k as vectors, predicts every token at its own position.

    Attention is causal over [condition, x_1 .. x_L], own position included. Two heads: logits over
    the codebook and, from the un-normed trunk, a vector in code space.
    """

    Config = GPTConfig

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.config = c
        self.trunk = Trunk(c, rngs)
        self.code_embed = nnx.Linear(c.code_dim, c.width, dtype=dtype, rngs=rngs)
        small = nnx.initializers.normal(0.02)
        # Row 0 says noise, row 1 data; the condition counts as data.
        self.noise_data_embed = nnx.Embed(2, c.width, embedding_init=small, rngs=rngs)
        self.vector_norm = nnx.LayerNorm(
            c.width, epsilon=1e-6, use_bias=False, use_scale=False, rngs=rngs
        )
        self.shift_scale = nnx.Param(small(rngs.params(), (2, c.width)))
        self.vector_head = nnx.Linear(c.width, c.code_dim, dtype=dtype, rngs=rngs)

    @property
    def groups(self) -> Groups:
        """As the teacher's."""
        return self.config.groups

    @classmethod
    def from_teacher(cls, teacher: Teacher, *, rngs: nnx.Rngs) -> "Student":
        """A fresh student whose trunk, condition and logits head are the teacher's."""
        student = cls(teacher.config, rngs=rngs)
        student.trunk = jax.tree.map(jnp.copy, teacher.trunk)
        return student

    def __call__(
        self, x_BLC: jax.Array, k: jax.Array | int, condition: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Predict X_G from X_k.

        Args:
          x_BLC: code vectors in the first k groups, noise behind.
          k: number of groups that are data; a number or one per image, [B].
          condition: [B] labels.

        Returns:
          logits [B, L, V] and vectors [B, L, C], float32. Both are meant for the noise positions.
        """
        batch, length, _ = x_BLC.shape
        class_embed = self.trunk.class_embed(condition)[:, None]
        is_data = jnp.broadcast_to(self.groups.is_data(k), (batch, length)).astype(jnp.int32)
        is_data = jnp.concatenate([jnp.ones_like(is_data[:, :1]), is_data], axis=1)
        dtype = self.trunk.transformer.dtype
        h = jnp.concatenate([class_embed.astype(dtype), self.code_embed(x_BLC)], axis=1)
        h = (h + self.noise_data_embed(is_data)).astype(dtype)
        mask = causal_mask(length + 1, length + 1)
        h, _ = self.trunk.transformer(h, self.trunk.rope(), mask)
        h = h[:, 1:]
        return self.trunk.logits(h), self._vectors(h, class_embed)

    def _vectors(self, h_BLD: jax.Array, class_B1D: jax.Array) -> jax.Array:
        shift, scale = (row + class_B1D for row in self.shift_scale[...][:, None, None])
        normed = self.vector_norm(h_BLD.astype(jnp.float32))
        shaped = normed * (1 + jnp.broadcast_to(scale, normed.shape))
        return self.vector_head(shaped + jnp.broadcast_to(shift, normed.shape)).astype(jnp.float32)
