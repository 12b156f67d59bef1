"""A teacher small enough to enumerate, behind the same seam as the real ones.

Its logits are a fixed random function of the ids of earlier groups: a sum of random vectors, one
for each (position, id), through tanh and a random matrix for each position.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ddjax.groups import Groups


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ToyTeacher:
    """Any groups; conditions are labels below `classes`, the null condition is `classes`."""

    embed_LVH: jax.Array
    label_YH: jax.Array
    head_LHV: jax.Array
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def make(cls, sizes, vocab, classes=2, hidden=8, sharpness=2.0, seed=0):
        keys = jax.random.split(jax.random.key(seed), 3)
        length = sum(sizes)
        return cls(
            jax.random.normal(keys[0], (length, vocab, hidden)),
            jax.random.normal(keys[1], (classes + 1, hidden)),
            sharpness * jax.random.normal(keys[2], (length, hidden, vocab)) / hidden**0.5,
            tuple(sizes),
        )

    @property
    def groups(self):
        return Groups(self.sizes)

    def null(self, condition):
        return jnp.full_like(condition, self.label_YH.shape[0] - 1)

    def logits(self, ids_BL, condition):
        length = ids_BL.shape[1]
        terms = self.embed_LVH[jnp.arange(length)[None], ids_BL]
        totals = jnp.cumsum(jnp.pad(terms, ((0, 0), (1, 0), (0, 0))), axis=1)
        starts = jnp.asarray(self.groups.starts)[self.groups.of_token]
        state = totals[:, starts] + self.label_YH[condition][:, None]
        return jnp.einsum("blh,lhv->blv", jnp.tanh(state), self.head_LHV)

    def prefill(self, condition, ids_BP):
        terms = self.embed_LVH[jnp.arange(ids_BP.shape[1])[None], ids_BP]
        state = self.label_YH[condition] + terms.sum(1)
        group = int((self.groups.starts < ids_BP.shape[1]).sum())
        return self._read(state, group, self.sizes[group]), state

    def step(self, ids_BS, group, cache):
        start = jnp.asarray(self.groups.starts)[group]
        table = jax.lax.dynamic_slice_in_dim(self.embed_LVH, start, ids_BS.shape[1])
        state = cache + table[jnp.arange(ids_BS.shape[1])[None], ids_BS].sum(1)
        # Inside a scan the sizes are all alike; outside, the next group may have another.
        size = self.sizes[group + 1] if isinstance(group, int) else ids_BS.shape[1]
        return self._read(state, group + 1, size), state

    def _read(self, state_BH, group, size):
        start = jnp.asarray(self.groups.starts)[group]
        head = jax.lax.dynamic_slice_in_dim(self.head_LHV, start, size)
        return jnp.einsum("bh,lhv->blv", jnp.tanh(state_BH), head)
