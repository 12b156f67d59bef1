"""LlamaGen: the teacher, an AR transformer over tokens in raster order, and its student.

The teacher follows github.com/FoundationVision/LlamaGen, the student the released Distilled
Decoding code, so that published weights of both convert.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.groups import Groups
from ddjax.method.protocols import Tokenizer
from ddjax.models import condition_embed
from ddjax.models.layers import VectorHead, last_embed
from ddjax.models.llamagen_trunk import LlamaGenConfig, LlamaGenTrunk, causal_mask
from ddjax.models.published import PublishedWeights
from ddjax.models.transformer import KeysValues, Transformer, TransformerCache

# The cache of the blocks, and which condition tokens count, [B, T] bool.
LlamaGenState = tuple[TransformerCache, jax.Array]


class LlamaGenTeacher(nnx.Module):
    """LlamaGen's GPT, a `ddjax.method.protocols.Teacher` whose groups are single tokens.

    A condition is a label per image, [B] int32, or a caption,
    {"features": [B, T, E], "mask": [B, T] bool}.
    """

    Config = LlamaGenConfig
    layout = Transformer.layout
    published = PublishedWeights("pt", {"grid": 16, "code_dim": 8})

    def __init__(self, config: LlamaGenConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.trunk = LlamaGenTrunk(config, rngs)
        self.token_embed = nnx.Embed(config.vocab_size, config.width, rngs=rngs)

    @classmethod
    def from_tokenizer(
        cls, config: LlamaGenConfig, tokenizer: Tokenizer, *, rngs: nnx.Rngs
    ) -> "LlamaGenTeacher":
        """A teacher with random weights; it needs nothing of the tokenizer."""
        del tokenizer
        return cls(config, rngs=rngs)

    @property
    def groups(self) -> Groups:
        """Single tokens in raster order."""
        return self.config.groups

    def null(self, condition: Any) -> Any:
        """The null condition, in the shapes of `condition`."""
        return self.trunk.condition.null(condition)

    def logits(self, ids_BL: jax.Array, condition: Any) -> jax.Array:
        """Teacher forcing: logits [B, L, V] of every token given the groups before its own."""
        h, _, _ = self._read(condition, ids_BL[:, :-1])
        return self.trunk.logits(h[:, self.trunk.condition.tokens - 1 :])

    def prefill(self, condition: Any, ids_BP: jax.Array) -> tuple[jax.Array, LlamaGenState]:
        """Read the condition and the ids of the first P tokens.

        Returns:
          logits [B, 1, V] of the next token, and the cache for `step`.
        """
        h, seen, valid = self._read(condition, ids_BP)
        cache = self.trunk.transformer.init_cache(seen, self._cache_length)
        return self.trunk.logits(h[:, -1:]), (cache, valid)

    def step(
        self, ids_BS: jax.Array, group: jax.Array | int, cache: LlamaGenState
    ) -> tuple[jax.Array, LlamaGenState]:
        """Append the id [B, 1] of a token; logits [B, 1, V] of the next."""
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
    ) -> tuple[jax.Array, KeysValues, jax.Array]:
        """Condition and ids through the blocks; also keys and values, and which tokens count."""
        tokens, valid = self.trunk.condition(condition)
        h = jnp.concatenate([tokens, self.token_embed(ids)], axis=1).astype(self.trunk.dtype)
        length = h.shape[1]
        mask = causal_mask(valid, length, length)
        h, seen = self.trunk.transformer(h, self.trunk.rope()[:length], mask)
        return h, seen, valid


class LlamaGenStudent(nnx.Module):
    """The one-pass student: reads X_k as vectors, predicts every token at its own position.

    Attention is causal over [condition, x_1 .. x_L], own position included. Two heads give logits
    over the codebook and a vector in code space. The vector head reads the condition once more: a
    class by its embedding, a caption by the mean of its projected tokens. (The released code has no
    student for captions; this mean is our choice.)
    """

    Config = LlamaGenConfig
    layout = Transformer.layout
    published = PublishedWeights("pt", {"grid": 16})

    def __init__(self, config: LlamaGenConfig, *, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.config = c
        self.trunk = LlamaGenTrunk(c, rngs)
        self.code_embed = nnx.Linear(c.code_dim, c.width, dtype=dtype, rngs=rngs)
        small = nnx.initializers.normal(0.02)
        # Row 0 says noise, row 1 data; the condition counts as data.
        self.noise_data_embed = nnx.Embed(2, c.width, embedding_init=small, rngs=rngs)
        self.vector_head = VectorHead(c.width, c.code_dim, dtype, rngs)

    @property
    def groups(self) -> Groups:
        """The teacher's."""
        return self.config.groups

    @classmethod
    def from_teacher(cls, teacher: LlamaGenTeacher, *, rngs: nnx.Rngs) -> "LlamaGenStudent":
        """A student that starts from copies of the teacher's trunk, condition and logits head."""
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
          logits [B, L, V] and vectors [B, L, C], float32, for the positions that are noise.
        """
        return self._predict(self.code_embed(x_BLC), self.groups.is_data(k), condition)

    def _predict(
        self, h_BLD: jax.Array, is_data: jax.Array, condition: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Logits and vectors from what is read at the positions of tokens."""
        tokens, valid = self.trunk.condition(condition)
        is_data = jnp.broadcast_to(is_data, h_BLD.shape[:2])
        is_data = jnp.concatenate([jnp.ones_like(valid), is_data], axis=1)
        dtype = self.trunk.dtype
        h = jnp.concatenate([tokens.astype(dtype), h_BLD], axis=1)
        h = (h + self.noise_data_embed(is_data.astype(jnp.int32))).astype(dtype)
        mask = causal_mask(valid, h.shape[1], h.shape[1])
        h, _ = self.trunk.transformer(h, self.trunk.rope(), mask)
        h = h[:, tokens.shape[1] :]
        return self.trunk.logits(h), self.vector_head(h, condition_embed.pooled(tokens, valid))


class LlamaGenRefiningStudent(LlamaGenStudent):
    """A student that can read, beside the noise, the codes that it drew in its pass before.

    At first it makes nothing of them.
    """

    published = None

    def __init__(self, config: LlamaGenConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        self.last_embed = last_embed(
            config.width, config.code_dim, jnp.dtype(config.dtype), rngs
        )

    def refined(
        self, x_BLC: jax.Array, last_BLC: jax.Array, condition: Any
    ) -> tuple[jax.Array, jax.Array]:
        """See `ddjax.method.protocols.RefiningStudent`."""
        h = self.code_embed(x_BLC) + self.last_embed(last_BLC)
        return self._predict(h, self.groups.is_data(0), condition)
