"""LlamaGen's GPT as a teacher, and the student that starts from it.

The GPT follows github.com/FoundationVision/LlamaGen, the student the released Distilled Decoding
code, so that published weights of both convert. Conditions are labels or captions; see
`ddjax.models.condition`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.groups import Groups
from ddjax.models import condition as conditions
from ddjax.models import layers

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
class GPTConfig:
    """Sizes of the GPT; teacher and student share them.

    Attributes:
      vocab_size: V, number of codes.
      code_dim: C, width of a code; what the student reads and writes.
      grid: tokens per side of the image; the sequence has grid^2, in raster order.
      width: D.
      layers: number of blocks.
      heads: number of heads; divides the width into even head widths.
      num_classes: class `num_classes` itself stands for "no condition"; 0 with captions.
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
    def groups(self) -> Groups:
        """Single tokens in raster order."""
        return Groups((1,) * self.grid**2)


class Trunk(nnx.Module):
    """What teacher and student have in common: condition, blocks, last norm, logits head."""

    def __init__(self, config: GPTConfig, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.condition = conditions.make(c, dtype, rngs)
        self.transformer = layers.Transformer(c.width, c.heads, c.layers, dtype, rngs)
        self.norm = layers.RMSNorm(c.width)
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
        """The rotary table of all positions, condition first."""
        return jnp.asarray(
            layers.rope_table(self.grid, self.head_width, self.condition.tokens)
        )

    def logits(self, h_BSD: jax.Array) -> jax.Array:
        """[B, S, V] float32."""
        return self.head(self.norm(h_BSD))


def causal_mask(
    valid_BT: jax.Array, queries: int, keys: int, position: jax.Array | int = 0
) -> jax.Array:
    """Bool [B, 1, queries, keys]: the query at position + i sees what is earlier, and itself.

    Condition tokens that do not count are seen by themselves only; `valid_BT` says which count.
    """
    query = position + jnp.arange(queries)[None, :, None]
    key = jnp.arange(keys)[None, None]
    valid = jnp.pad(valid_BT, ((0, 0), (0, keys - valid_BT.shape[1])), constant_values=True)
    return (((key < query) & valid[:, None]) | (key == query))[:, None]


# That of the blocks, and which condition tokens count.
Cache = tuple[layers.Cache, jax.Array]


class Teacher(nnx.Module):
    """The teacher's side of the seam: groups, null, logits, prefill, step.

    A condition is a label per image, [B] int32, or a caption,
    {"features": [B, T, E], "mask": [B, T] bool}. Groups are single tokens.
    """

    Config = GPTConfig

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.trunk = Trunk(config, rngs)
        self.token_embed = nnx.Embed(config.vocab_size, config.width, rngs=rngs)

    @classmethod
    def from_tokenizer(
        cls, config: GPTConfig, tokenizer: nnx.Module, *, rngs: nnx.Rngs
    ) -> "Teacher":
        """A fresh teacher for a tokenizer, which this family takes nothing of."""
        del tokenizer
        return cls(config, rngs=rngs)

    @property
    def groups(self) -> Groups:
        """The order in which tokens are predicted."""
        return self.config.groups

    def null(self, condition: Any) -> Any:
        """The condition that says nothing, in the shape of `condition`."""
        return self.trunk.condition.null(condition)

    def logits(self, ids_BL: jax.Array, condition: Any) -> jax.Array:
        """Teacher forcing: logits [B, L, V] of every token given the groups before its own."""
        h, _, _ = self._read(condition, ids_BL[:, :-1])
        return self.trunk.logits(h[:, self.trunk.condition.tokens - 1 :])

    def prefill(self, condition: Any, ids_BP: jax.Array) -> tuple[jax.Array, Cache]:
        """Read condition and the ids of the first n groups.

        Returns:
          logits [B, size of group n, V] of group n, and the cache for `step`.
        """
        h, seen, valid = self._read(condition, ids_BP)
        cache = self.trunk.transformer.init_cache(seen, self._cache_length)
        return self.trunk.logits(h[:, -1:]), (cache, valid)

    def step(
        self, ids_BS: jax.Array, group: jax.Array | int, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Append the ids of `group`; logits [B, size of group + 1, V] of the group behind it."""
        cache, valid = cache
        position = group + self.trunk.condition.tokens
        rope = jax.lax.dynamic_slice_in_dim(self.trunk.rope(), position, 1)
        mask = causal_mask(valid, 1, self._cache_length, position)
        h = self.token_embed(ids_BS).astype(self.trunk.dtype)
        h, cache = self.trunk.transformer.step(h, rope, mask, cache, position)
        return self.trunk.logits(h), (cache, valid)

    @property
    def _cache_length(self) -> int:
        # Nothing is predicted behind the last token, so it is never read.
        return self.trunk.condition.tokens + self.groups.length - 1

    def _read(
        self, condition: Any, ids: jax.Array
    ) -> tuple[jax.Array, layers.KeysValues, jax.Array]:
        """Condition and ids through the blocks; also keys and values, and which tokens count."""
        tokens, valid = self.trunk.condition(condition)
        h = jnp.concatenate([tokens, self.token_embed(ids)], axis=1).astype(self.trunk.dtype)
        length = h.shape[1]
        mask = causal_mask(valid, length, length)
        h, seen = self.trunk.transformer(h, self.trunk.rope()[:length], mask)
        return h, seen, valid


class Student(nnx.Module):
    """The one-pass student: reads X_k as vectors, predicts every token at its own position.

    Attention is causal over [condition, x_1 .. x_L], own position included. Two heads: logits over
    the codebook and, from the un-normed trunk, a vector in code space. The vector head reads the
    condition once more: a class by its embedding, a caption by the mean of its projected tokens.
    (The released code has no student for captions; there this mean is our choice.)
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
        self.vector_head = layers.VectorHead(c.width, c.code_dim, dtype, rngs)

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
        self, x_BLC: jax.Array, k: jax.Array | int, condition: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Predict X_G from X_k.

        Args:
          x_BLC: code vectors in the first k groups, noise behind.
          k: number of groups that are data; a number or one per image, [B].
          condition: labels [B], or a caption, as for the teacher.

        Returns:
          logits [B, L, V] and vectors [B, L, C], float32. Both are meant for the noise positions.
        """
        tokens, valid = self.trunk.condition(condition)
        is_data = jnp.broadcast_to(self.groups.is_data(k), x_BLC.shape[:2])
        is_data = jnp.concatenate([jnp.ones_like(valid), is_data], axis=1)
        dtype = self.trunk.dtype
        h = jnp.concatenate([tokens.astype(dtype), self.code_embed(x_BLC)], axis=1)
        h = (h + self.noise_data_embed(is_data.astype(jnp.int32))).astype(dtype)
        mask = causal_mask(valid, h.shape[1], h.shape[1])
        h, _ = self.trunk.transformer(h, self.trunk.rope(), mask)
        h = h[:, tokens.shape[1] :]
        return self.trunk.logits(h), self.vector_head(h, conditions.pooled(tokens, valid))
