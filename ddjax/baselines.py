"""The paper's baselines: `onestep*` and `skip-n` (section 5.1).

A marginal is sampled without a table of V numbers a position: the token that a random pair of the
teacher has there is a draw from it.
"""

import jax
import jax.numpy as jnp

from ddjax import trajectory
from ddjax.guidance import Guided


def onestep(
    pool_NL: jax.Array, label_B: jax.Array | None, batch: int, num_classes: int, key: jax.Array
) -> jax.Array:
    """Ids [B, L], each drawn independently from its position's marginal.

    The best that predicting all tokens at once can reach: the optimum of that objective is the
    marginal of each token.

    Args:
      pool_NL: ids of the teacher's pairs; pair i has class i % num_classes.
      label_B: classes, for marginals given the class; None for marginals over all images.
      batch: B.
      num_classes: number of classes.
      key: of the draw.
    """
    count, length = pool_NL.shape
    if label_B is None:
        row = jax.random.randint(key, (batch, length), 0, count)
    else:
        turn = jax.random.randint(key, (batch, length), 0, count // num_classes)
        row = turn * num_classes + label_B[:, None]
    return pool_NL[row, jnp.arange(length)[None]].astype(jnp.int32)


def skip(
    teacher: Guided,
    condition: jax.Array,
    pool_NL: jax.Array,
    num_classes: int,
    groups_skipped: int,
    key: jax.Array,
) -> jax.Array:
    """Ids [B, L]: the teacher samples all but the last groups; those come from the marginals."""
    batch = condition.shape[0]
    head_key, tail_key = jax.random.split(key)
    stop = teacher.groups.count - groups_skipped
    head = trajectory.sample_ids(
        teacher, condition, head_key, trajectory.no_prefix(batch), stop=stop
    )
    tail = onestep(pool_NL, condition, batch, num_classes, tail_key)
    return jnp.concatenate([head, tail[:, head.shape[1] :]], axis=1)
