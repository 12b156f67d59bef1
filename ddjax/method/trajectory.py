"""Trajectories from noise to image: X_k, AR sampling, the flow map, refinement.

Written once over groups, for every teacher, which is seen as `ddjax.method.guidance.Guided`.
X_k has its first k groups as code embeddings and the rest still as noise; X_0 is all noise and
X_G the finished image (arXiv 2412.17153, section 3.3).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddjax.method import flow
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guided

# (log-probabilities [B, S, V], group, index of its first token) -> ids [B, S]
Choose = Callable[[jax.Array, jax.Array | int, jax.Array | int], jax.Array]


def generate(
    teacher: Guided,
    condition: Any,
    choose: Choose,
    prefix_BP: jax.Array,
    stop: int | None = None,
) -> jax.Array:
    """Let the teacher append groups to a prefix, with its cache, one `lax.scan` a run of groups.

    Args:
      teacher: the guided teacher.
      condition: pytree with leading axis B.
      choose: picks the ids of a group from its log-probabilities.
      prefix_BP: ids of whole groups to start from; [B, 0] for none.
      stop: number of groups at the end; all by default.

    Returns:
      ids [B, tokens of the first `stop` groups], prefix included.
    """
    groups = teacher.groups
    starts = jnp.asarray(groups.starts)
    first = groups.before(prefix_BP.shape[1])
    stop = groups.count if stop is None else stop
    pieces = [prefix_BP]
    if first >= stop:
        return prefix_BP
    log_p, cache = teacher.prefill(condition, prefix_BP)

    def body(carry: tuple, group: jax.Array) -> tuple:
        log_p, cache = carry
        ids = choose(log_p, group, starts[group])
        return teacher.step(ids, group, cache), ids

    for begin, end in groups.runs(first, stop):
        if end - begin > 1:
            (log_p, cache), ids = jax.lax.scan(
                body, (log_p, cache), jnp.arange(begin, end - 1, dtype=jnp.int32)
            )
            pieces.append(jnp.swapaxes(ids, 0, 1).reshape(ids.shape[1], -1))
        last = end - 1
        pieces.append(choose(log_p, last, int(groups.starts[last])))
        if end < stop:
            log_p, cache = teacher.step(pieces[-1], last, cache)
    return jnp.concatenate(pieces, axis=1)


def sample_ids(
    teacher: Guided,
    condition: Any,
    keys_B: jax.Array,
    prefix_BP: jax.Array,
    stop: int | None = None,
) -> jax.Array:
    """Plain AR sampling: every token drawn at random from its distribution. See `generate`.

    Args:
      teacher: the guided teacher.
      condition: pytree with leading axis B.
      keys_B: a key for each image.
      prefix_BP: ids of whole groups to start from; [B, 0] for none.
      stop: number of groups at the end; all by default.

    Returns:
      ids [B, tokens of the first `stop` groups]; -1 where a log-probability is not a number.
    """
    draw = jax.vmap(
        lambda key, group, log_p: jax.random.categorical(jax.random.fold_in(key, group), log_p),
        in_axes=(0, None, 0),
    )

    def choose(log_p: jax.Array, group: jax.Array | int, start: jax.Array | int) -> jax.Array:
        del start
        ids = draw(keys_B, group, log_p).astype(jnp.int32)
        return jnp.where(jnp.isnan(log_p).any(axis=-1), -1, ids)

    return generate(teacher, condition, choose, prefix_BP, stop)


def map_noise(
    teacher: Guided,
    condition: Any,
    eps_BLC: jax.Array,
    codes_VC: jax.Array,
    solver: flow.Solver,
    prefix_BP: jax.Array | None = None,
) -> jax.Array:
    """The exact map: ids [B, L] that the noise fixes, group after group (algorithm 1).

    Args:
      teacher: the guided teacher.
      condition: pytree with leading axis B.
      eps_BLC: the noise.
      codes_VC: the codebook.
      solver: of the flow.
      prefix_BP: ids of whole groups to start from; none by default.
    """

    def choose(log_p: jax.Array, group: jax.Array | int, start: jax.Array | int) -> jax.Array:
        del group
        eps = jax.lax.dynamic_slice_in_dim(eps_BLC, start, log_p.shape[1], axis=1)
        return flow.noise_to_ids(eps, log_p, codes_VC, solver)

    prefix_BP = no_prefix(eps_BLC.shape[0]) if prefix_BP is None else prefix_BP
    return generate(teacher, condition, choose, prefix_BP)


def refine(
    teacher: Guided,
    condition: Any,
    eps_BLC: jax.Array,
    codes_VC: jax.Array,
    solver: flow.Solver,
    ids_BL: jax.Array,
    passes: int,
) -> jax.Array:
    """Iterate ids -> map of the noise under the teacher's distributions given those ids.

    The exact map is its fixed point. After m passes at least the first m groups equal it, from any
    start; each pass is one teacher-forced network pass over all groups at once.

    Args:
      teacher: the guided teacher.
      condition: pytree with leading axis B.
      eps_BLC: the noise.
      codes_VC: the codebook.
      solver: of the flow.
      ids_BL: where to start.
      passes: of the teacher.

    Returns:
      ids [B, L].
    """

    def one(ids_BL: jax.Array, _: None) -> tuple[jax.Array, None]:
        log_p = teacher.log_probs(ids_BL, condition)
        return flow.noise_to_ids(eps_BLC, log_p, codes_VC, solver), None

    return jax.lax.scan(one, ids_BL, length=passes)[0]


def x_at(k: int | jax.Array, data_BLC: jax.Array, eps_BLC: jax.Array, groups: Groups) -> jax.Array:
    """X_k: data in the first k groups, noise behind.

    Args:
      k: a number, or one for each image, [B].
      data_BLC: code vectors.
      eps_BLC: the noise.
      groups: of the tokens.

    Returns:
      [B, L, C].
    """
    is_data = groups.is_data(k)
    return jnp.where(jnp.broadcast_to(is_data, eps_BLC.shape[:2])[..., None], data_BLC, eps_BLC)


def no_prefix(batch: int) -> jax.Array:
    """Ids [B, 0] of an empty prefix."""
    return jnp.zeros((batch, 0), jnp.int32)
