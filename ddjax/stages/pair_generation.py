"""Pair generation: (noise, condition, ids) from the teacher's flow map.

The noise of pair i is drawn from a counter-based key, so that the index stands for it. What is in a
shard depends on the config and its indices alone, not on which other shards are made, by which
process, or on how many devices: each device maps batches of its own, of always the same size.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddjax.config.schema import Config
from ddjax.data.conditions import Conditions
from ddjax.method import keys, trajectory
from ddjax.method.flow import Solver
from ddjax.method.guidance import Guidance, Guided
from ddjax.method.protocols import Teacher
from ddjax.runtime import progress, sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import run_models


@functools.partial(jax.jit, static_argnames=("seed", "length", "code_dim"))
def noise_of(seed: int, index_B: jax.Array, length: int, code_dim: int) -> jax.Array:
    """The noise [B, L, C] of training pairs, by their index.

    Args:
      seed: of the pairs.
      index_B: numbers of the pairs.
      length: L, tokens of an image.
      code_dim: C, width of a code.
    """
    return keys.noise(keys.stream(seed, "pairs"), index_B, length, code_dim)


@functools.partial(jax.jit, static_argnames=("guidance", "solver"))
def map_batch(
    teacher: Teacher,
    codes_VC: jax.Array,
    eps_BLC: jax.Array,
    condition: Any,
    *,
    guidance: Guidance,
    solver: Solver,
) -> jax.Array:
    """`trajectory.map_noise`, compiled; every device maps its share of the rows.

    Args:
      teacher: unguided.
      codes_VC: the codebook.
      eps_BLC: noise.
      condition: pytree with leading axis B.
      guidance: how the teacher is sampled.
      solver: of the flow.

    Returns:
      ids [B, L].
    """

    def share(
        teacher: Teacher, codes_VC: jax.Array, eps_BLC: jax.Array, condition: Any
    ) -> jax.Array:
        guided = Guided(teacher, guidance)
        return trajectory.map_noise(guided, condition, eps_BLC, codes_VC, solver)

    return sharding.per_device(share, replicated=2)(teacher, codes_VC, eps_BLC, condition)


def generate(
    config: Config, root: Path, conditions: Conditions, shards: dict[str, range]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Make shards on the current mesh, which is of this process, one after another.

    Args:
      config: of the run.
      root: the workdir, with teacher and tokenizer.
      conditions: of the run.
      shards: indices of the pairs by the name of the shard.

    Yields:
      name, numbers of the conditions [N] and ids [N, L] of a shard.

    Raises:
      UserError: the teacher gives a log-probability that is not finite; names batch and token.
    """
    batch, made = config.pairs.batch * sharding.devices(), []
    todo = sum(-(-len(index) // batch) for index in shards.values())
    batches = _batches(config, root, shards, conditions)
    for name, ids in progress.bar(batches, "pairs", todo):
        index = shards[name]
        refuse_not_finite(ids, name, len(made), index.start + len(made) * batch)
        made.append(ids)
        if len(made) * batch >= len(index):
            yield name, conditions.number(index), np.concatenate(made)[: len(index)]
            made = []


def refuse_not_finite(ids_BL: np.ndarray, name: str, batch: int, first: int) -> None:
    """Refuse ids of -1, which mark log-probabilities that are not a number.

    Args:
      ids_BL: of a batch.
      name: of what it belongs to.
      batch: its number there.
      first: number of its first pair.

    Raises:
      UserError: names the batch, the pair and the token.
    """
    bad = np.argwhere(ids_BL < 0)
    if len(bad):
        row, token = bad[0]
        raise UserError(
            f"pairs: a log-probability is not finite in batch {batch} of {name}, at pair "
            f"{first + row}, token {token}; shards that are whole are kept. Look at the teacher's "
            "weights, or compute in float32"
        )


def _batches(
    config: Config, root: Path, shards: dict[str, range], conditions: Conditions
) -> Iterator[tuple[str, np.ndarray]]:
    """(name of the shard, ids) batch by batch; one is computed while the one before is read."""
    teacher = run_models.load(config, root, "teacher")
    codes_VC = run_models.load(config, root, "tokenizer").codebook
    batch, pending = config.pairs.batch * sharding.devices(), None
    for name, index in shards.items():
        for first in range(index.start, index.stop, batch):
            rows = np.arange(first, first + batch, dtype=np.int32)
            condition = conditions.take(conditions.number(rows))
            index_B, condition = sharding.shard_batch((rows, condition), batch)
            condition = conditions.encode(condition)
            eps = noise_of(config.seed, index_B, teacher.groups.length, codes_VC.shape[1])
            ids = map_batch(
                teacher, codes_VC, eps, condition, guidance=config.guidance, solver=config.flow
            )
            if pending is not None:
                yield pending[0], np.asarray(pending[1])
            pending = (name, ids)
    if pending is not None:
        yield pending[0], np.asarray(pending[1])
