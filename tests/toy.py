"""A teacher small enough to enumerate, by the same protocol as the real ones.

Its logits are a fixed random function of the ids of earlier groups: a sum of random vectors, one
for each (position, id), through tanh and a random matrix for each position.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.groups import Groups
from ddjax.method.token_maps import TokenMaps
from ddjax.runtime.layout import ParameterLayout


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Any groups; conditions are labels below `num_classes`, which itself is the null condition."""

    sizes: tuple[int, ...]
    vocab_size: int
    code_dim: int = 4
    num_classes: int = 2
    width: int = 8
    sharpness: float = 2.0

    @property
    def groups(self):
        return Groups(self.sizes)

    @property
    def token_maps(self):
        """There is no image: every token is a map of its own."""
        return TokenMaps("sizes", (1,) * sum(self.sizes))


class ToyTeacher(nnx.Module):
    Config = ToyConfig
    layout = ParameterLayout(decayed=("head_LHV",), cut=(), stacks=())
    published = None

    def __init__(self, config, *, rngs):
        c, length, random = config, sum(config.sizes), jax.random.normal
        self.config = c
        self.embed_LVH = nnx.Param(random(rngs.params(), (length, c.vocab_size, c.width)))
        self.label_YH = nnx.Param(random(rngs.params(), (c.num_classes + 1, c.width)))
        head = random(rngs.params(), (length, c.width, c.vocab_size)) / c.width**0.5
        self.head_LHV = nnx.Param(c.sharpness * head)

    @classmethod
    def make(cls, sizes, vocab_size, seed=0, **others):
        return cls(ToyConfig(tuple(sizes), vocab_size, **others), rngs=nnx.Rngs(seed))

    @classmethod
    def from_tokenizer(cls, config, tokenizer, *, rngs):
        del tokenizer
        return cls(config, rngs=rngs)

    @property
    def groups(self):
        return self.config.groups

    def null(self, condition):
        return jnp.full_like(condition, self.config.num_classes)

    def logits(self, ids_BL, condition):
        terms = self.embed_LVH[jnp.arange(self.groups.length)[None], ids_BL]
        totals = jnp.cumsum(jnp.pad(terms, ((0, 0), (1, 0), (0, 0))), axis=1)
        starts = jnp.asarray(self.groups.starts)[self.groups.of_token]
        state = totals[:, starts] + self.label_YH[condition][:, None]
        return jnp.einsum("blh,lhv->blv", jnp.tanh(state), self.head_LHV[...])

    def prefill(self, condition, ids_BP):
        terms = self.embed_LVH[jnp.arange(ids_BP.shape[1])[None], ids_BP]
        state = self.label_YH[condition] + terms.sum(1)
        group = self.groups.before(ids_BP.shape[1])
        return self._read(state, group, self.groups.sizes[group]), state

    def step(self, ids_BS, group, cache):
        start = jnp.asarray(self.groups.starts)[group]
        table = jax.lax.dynamic_slice_in_dim(self.embed_LVH[...], start, ids_BS.shape[1])
        state = cache + table[jnp.arange(ids_BS.shape[1])[None], ids_BS].sum(1)
        # Inside a scan the sizes are all alike; outside, the next group may have another.
        size = self.groups.sizes[group + 1] if isinstance(group, int) else ids_BS.shape[1]
        return self._read(state, group + 1, size), state

    def _read(self, state_BH, group, size):
        start = jnp.asarray(self.groups.starts)[group]
        head = jax.lax.dynamic_slice_in_dim(self.head_LHV[...], start, size)
        return jnp.einsum("bh,lhv->blv", jnp.tanh(state_BH), head)
