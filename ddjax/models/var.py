"""VAR: the teacher, a class-conditional AR transformer over scales, and its student.

The teacher follows github.com/FoundationVision/VAR (arXiv 2404.02905), the student the released
Distilled Decoding code, so that published weights of both convert.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.method.groups import Groups
from ddjax.models import layers
from ddjax.models.multiscale import SCALES, Quantiser
from ddjax.models.multiscale_vq import MultiscaleTokenizer
from ddjax.models.published import PublishedWeights
from ddjax.models.var_blocks import VARCache
from ddjax.models.var_trunk import Between, VARConfig, VARTrunk, noise_or_data


class VARState(NamedTuple):
    """The teacher's cache between scales."""

    condition_B1D: jax.Array
    modulation: list[jax.Array]  # of all blocks
    map_BHWC: jax.Array  # the sum over all scales so far
    cache: VARCache


class VARTeacher(nnx.Module):
    """VAR, a `ddjax.method.protocols.Teacher` whose groups are scales.

    A condition is a label per image, [B] int32. The input of a scale is made from the ids of all
    earlier ones by the quantiser, so the teacher holds the tokenizer's, which is not trained here.
    """

    Config = VARConfig
    layout = VARTrunk.layout
    published = PublishedWeights("pth", {"scales": SCALES})

    def __init__(self, config: VARConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        self.config = c
        self.trunk = VARTrunk(c, c.groups, rngs)
        self.quantiser = Quantiser(c.scales, c.vocab_size, c.code_dim, rngs)

    @classmethod
    def from_tokenizer(
        cls, config: VARConfig, tokenizer: MultiscaleTokenizer, *, rngs: nnx.Rngs
    ) -> "VARTeacher":
        """A teacher with random weights and a copy of the tokenizer's quantiser."""
        teacher = cls(config, rngs=rngs)
        teacher.quantiser = jax.tree.map(jnp.copy, tokenizer.quantiser)
        return teacher

    @property
    def groups(self) -> Groups:
        """The scales."""
        return self.config.groups

    def null(self, condition: jax.Array) -> jax.Array:
        """The null label for each image, [B]."""
        return self.trunk.condition.null(condition)

    def logits(self, ids_BL: jax.Array, condition: jax.Array) -> jax.Array:
        """Teacher forcing: logits [B, L, V] of every token given the scales before its own."""
        h, condition_B1D, _ = self._begin(condition, ids_BL[:, : self.groups.starts[-2]])
        h, _ = self.trunk(h, condition_B1D, block_causal_mask(self.groups, h.shape[1]))
        return self.trunk.logits(h, condition_B1D)

    def prefill(self, condition: jax.Array, ids_BP: jax.Array) -> tuple[jax.Array, VARState]:
        """Read the condition and the ids of the first n scales.

        The mask is block-causal here as in training. (The released code lets the scales of a
        prefix see each other both ways, which the teacher never learned.)

        Returns:
          logits [B, tokens of scale n, V] of scale n, and the state for `step`.
        """
        h, condition_B1D, map_BHWC = self._begin(condition, ids_BP)
        c, mask = self.config, block_causal_mask(self.groups, h.shape[1])
        empty = jnp.zeros((c.layers, len(ids_BP), 0, c.heads, c.width // c.heads), self.trunk.dtype)
        modulation = self.trunk.modulated(condition_B1D)
        h, cache = self.trunk(h, condition_B1D, mask, (empty, empty), modulation=modulation)
        logits = self.trunk.logits(h[:, ids_BP.shape[1] :], condition_B1D)
        return logits, VARState(condition_B1D, modulation, map_BHWC, cache)

    def step(self, ids_BS: jax.Array, group: int, state: VARState) -> tuple[jax.Array, VARState]:
        """Append the ids of `group`; logits [B, tokens of scale group + 1, V] of the next scale."""
        quantiser = jax.lax.stop_gradient(self.quantiser)
        added = quantiser.spread(quantiser.codebook[ids_BS], group)
        state = state._replace(map_BHWC=state.map_BHWC + added)
        h = self.trunk.code_embed(quantiser.shrink(state.map_BHWC, group + 1))
        h = self.trunk.place(h, self.groups.starts[group + 1])
        h, cache = self.trunk(
            h, state.condition_B1D, None, state.cache, modulation=state.modulation
        )
        return self.trunk.logits(h, state.condition_B1D), state._replace(cache=cache)

    def _begin(
        self, condition: jax.Array, ids_BP: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Inputs of the first n + 1 scales from the ids of n, the condition, the sum of the n."""
        quantiser = jax.lax.stop_gradient(self.quantiser)
        condition_B1D, _ = self.trunk.condition(condition)
        maps = quantiser.maps(quantiser.codebook[ids_BP])
        h = self.trunk.embed(condition_B1D, quantiser.inputs(maps))
        return h, condition_B1D, maps[-1]


def block_causal_mask(groups: Groups, length: int) -> np.ndarray:
    """Bool [1, 1, S, S] for the first S tokens: own and earlier scales are seen."""
    scale = groups.of_token[:length]
    return (scale[:, None] >= scale[None])[None, None]


class VARStudent(nnx.Module):
    """The one-pass student: reads X_k as vectors, predicts every token at its own position.

    The condition is a level of its own before the scales. A token sees the levels before its own,
    and itself. Embeddings of noise and data are added to the input, in every block and before the
    heads. Two heads give logits over the codebook and a vector in code space.
    """

    Config = VARConfig
    layout = VARTrunk.layout
    published = PublishedWeights("pth", {"scales": SCALES})

    def __init__(self, config: VARConfig, *, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.config = c
        self.trunk = VARTrunk(c, Groups((1, *c.groups.sizes)), rngs)
        small = nnx.initializers.normal(0.02)
        # Row 0 says noise, row 1 data; the condition counts as data.
        self.noise_data_embed = nnx.Embed(2, c.width, embedding_init=small, rngs=rngs)
        self.noise_data = layers.stacked(
            lambda rngs: nnx.Linear(c.width, c.width, rngs=rngs), c.layers + 1, rngs
        )
        self.vector_head = layers.VectorHead(c.width, c.code_dim, dtype, rngs)

    @property
    def groups(self) -> Groups:
        """The teacher's."""
        return self.config.groups

    @classmethod
    def from_teacher(cls, teacher: VARTeacher, *, rngs: nnx.Rngs) -> "VARStudent":
        """A student that starts from a copy of the teacher's trunk.

        The teacher predicts the first scale where it reads the condition; here that scale has a
        place of its own, level and position 1, whose embeddings start random. (The released code
        draws a new row of the class table instead.)
        """
        student = cls(teacher.config, rngs=rngs)
        trunk, fresh = jax.tree.map(jnp.copy, teacher.trunk), student.trunk
        trunk.levels = fresh.levels
        trunk.level_embed = _with_row_1(trunk.level_embed, fresh.level_embed)
        trunk.position_embed = _with_row_1(trunk.position_embed, fresh.position_embed)
        student.trunk = trunk
        return student

    def __call__(
        self, x_BLC: jax.Array, k: jax.Array | int, condition: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Predict X_G from X_k.

        Args:
          x_BLC: code vectors in the first k scales, noise behind.
          k: number of scales that are data; a number or one per image, [B].
          condition: [B] labels.

        Returns:
          logits [B, L, V] and vectors [B, L, C], float32, for the positions that are noise.
        """
        condition_B1D, _ = self.trunk.condition(condition)
        h = self.trunk.embed(condition_B1D, x_BLC)
        return self._predict(h, self.groups.is_data(k), condition_B1D)

    def _predict(
        self, h_BSD: jax.Array, is_data: jax.Array, condition_B1D: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Logits and vectors from what is read at the positions of condition and tokens."""
        is_data = jnp.broadcast_to(is_data, (h_BSD.shape[0], self.groups.length))
        is_data = jnp.pad(is_data, ((0, 0), (1, 0)), constant_values=True)
        rows_2D = self.noise_data_embed.embedding[...]
        # Two rows a layer instead of a product at every position.
        rows_N2D = jax.vmap(lambda linear: linear(rows_2D))(self.noise_data)
        h = h_BSD + noise_or_data(is_data, rows_2D)
        h, _ = self.trunk(
            h.astype(self.trunk.dtype), condition_B1D, student_mask(self.trunk.levels),
            between=Between(is_data, rows_N2D[:-1]),
        )
        h = (h + noise_or_data(is_data, rows_N2D[-1]))[:, 1:].astype(self.trunk.dtype)
        return self.trunk.logits(h, condition_B1D), self.vector_head(h, condition_B1D)


class VARRefiningStudent(VARStudent):
    """A student that can read, beside the noise, the codes that it drew in its pass before.

    At first it makes nothing of them.
    """

    published = None

    def __init__(self, config: VARConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        self.last_embed = layers.last_embed(
            config.width, config.code_dim, jnp.dtype(config.dtype), rngs
        )

    def refined(
        self, x_BLC: jax.Array, last_BLC: jax.Array, condition: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `ddjax.method.protocols.RefiningStudent`."""
        condition_B1D, _ = self.trunk.condition(condition)
        last_BSD = jnp.pad(self.last_embed(last_BLC), ((0, 0), (1, 0), (0, 0)))
        h = self.trunk.embed(condition_B1D, x_BLC) + last_BSD
        return self._predict(h, self.groups.is_data(0), condition_B1D)


def student_mask(levels: Groups) -> np.ndarray:
    """Bool [1, 1, S, S]: earlier levels are seen, and the own position."""
    level = levels.of_token
    return ((level[:, None] > level[None]) | np.eye(levels.length, dtype=bool))[None, None]


def _with_row_1(rows: nnx.Param, fresh: nnx.Param) -> nnx.Param:
    return nnx.Param(jnp.concatenate([rows[:1], fresh[1:2], rows[1:]]))
