"""Baselines of the paper: `onestep*` and `skip-n` (arXiv 2412.17153, section 5.1).

A marginal is sampled without a table of V numbers for each position: the token that a random pair
of the teacher has there is a draw from it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.method import trajectory
from ddjax.method.guidance import Guided


class Marginals(NamedTuple):
    """The teacher's marginal at every position, as ids of pairs, sorted by bucket.

    A bucket is what a marginal may be conditioned on: a class, or nothing. See `of_pairs`.
    """

    ids_NL: jax.Array
    start_K: jax.Array
    size_K: jax.Array

    @classmethod
    def of_pairs(cls, ids_NL: np.ndarray, bucket_N: np.ndarray, buckets: int) -> "Marginals":
        """The marginals of pairs.

        Args:
          ids_NL: their ids.
          bucket_N: the bucket of each pair, in 0 .. buckets - 1.
          buckets: K, how many there are; one without a pair gives the ids of another.
        """
        size_K = np.bincount(bucket_N, minlength=buckets).astype(np.int32)
        start_K = np.concatenate([[0], np.cumsum(size_K)[:-1]]).astype(np.int32)
        return cls(ids_NL[np.argsort(bucket_N, kind="stable")], start_K, size_K)


def onestep(marginals: Marginals, bucket_B: jax.Array | None, keys_B: jax.Array) -> jax.Array:
    """Ids [B, L], each drawn independently from its position's marginal.

    The best that predicting all tokens at once can reach: the optimum of that objective is the
    marginal of each token.

    Args:
      marginals: of the teacher's pairs.
      bucket_B: the bucket of each image; None for marginals over all pairs.
      keys_B: a key for each image.
    """
    count, length = marginals.ids_NL.shape
    if bucket_B is None:
        start_B = jnp.zeros(keys_B.shape, jnp.int32)
        size_B = jnp.full(keys_B.shape, count, jnp.int32)
    else:
        start_B, size_B = (jnp.asarray(x)[bucket_B] for x in marginals[1:])

    def one(key: jax.Array, start: jax.Array, size: jax.Array) -> jax.Array:
        row_L = start + jax.random.randint(key, (length,), 0, size)
        return jnp.asarray(marginals.ids_NL)[row_L, jnp.arange(length)]

    return jax.vmap(one)(keys_B, start_B, size_B).astype(jnp.int32)


def skip(
    teacher: Guided,
    condition: Any,
    marginals: Marginals,
    bucket_B: jax.Array,
    groups_skipped: int,
    keys_B: jax.Array,
    prefix_BP: jax.Array,
) -> jax.Array:
    """Ids [B, L]: the teacher samples all but the last groups; those come from the marginals.

    Args:
      teacher: the guided teacher.
      condition: pytree with leading axis B.
      marginals: of the teacher's pairs.
      bucket_B: the bucket of each image.
      groups_skipped: how many of the last groups the teacher does not sample.
      keys_B: a key for each image.
      prefix_BP: ids of whole groups to start from; [B, 0] for none.
    """
    head_keys, tail_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys_B), 1, 0)
    stop = teacher.groups.count - groups_skipped
    head = trajectory.sample_ids(teacher, condition, head_keys, prefix_BP, stop=stop)
    tail = onestep(marginals, bucket_B, tail_keys)
    return jnp.concatenate([head, tail[:, head.shape[1] :]], axis=1)
