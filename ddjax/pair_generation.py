"""Pairs (noise, condition, ids) from the teacher's flow map.

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
from flax import nnx

from ddjax import keys, parts, progress, sharding, trajectory
from ddjax.config import Config
from ddjax.errors import UserError
from ddjax.flow import Solver
from ddjax.guidance import Guidance, Guided


def noise_of(seed: int, index_B: jax.Array, length: int, code_dim: int) -> jax.Array:
    """The noise [B, L, C] of training pairs, by their index."""
    return keys.noise(keys.stream(seed, "pairs"), index_B, length, code_dim)


def labels_of(index_B: jax.Array, num_classes: int) -> jax.Array:
    """The classes [B] of training pairs: all in turn, so that each has its share."""
    return (index_B % num_classes).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("guidance", "solver"))
def map_batch(
    teacher: nnx.Module,
    codes_VC: jax.Array,
    eps_BLC: jax.Array,
    condition: Any,
    *,
    guidance: Guidance,
    solver: Solver,
) -> jax.Array:
    """`trajectory.map_noise`, compiled; every device maps its share of the rows."""

    def share(
        teacher: nnx.Module, codes_VC: jax.Array, eps_BLC: jax.Array, condition: Any
    ) -> jax.Array:
        guided = Guided(teacher, guidance)
        return trajectory.map_noise(guided, condition, eps_BLC, codes_VC, solver)

    return sharding.each_device(share, whole=2)(teacher, codes_VC, eps_BLC, condition)


def generate(
    config: Config, root: Path, shards: dict[str, range]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Make shards on the current mesh, which is of this process, one after another.

    Args:
      config: of the run.
      root: the workdir, with teacher and tokenizer.
      shards: indices of the pairs by the name of the shard.

    Yields:
      name, classes [N] and ids [N, L] of a shard.

    Raises:
      UserError: the teacher gives a log-probability that is not finite; names batch and token.
    """
    batch, made = config.pairs.batch * sharding.devices(), []
    todo = sum(-(-len(index) // batch) for index in shards.values())
    for name, ids in progress.bar(_batches(config, root, shards), "pairs", todo):
        index = shards[name]
        _refuse_not_finite(ids, name, len(made), index.start + len(made) * batch)
        made.append(ids)
        if len(made) * batch >= len(index):
            labels = labels_of(np.arange(index.start, index.stop), config.data.num_classes)
            yield name, labels, np.concatenate(made)[: len(index)]
            made = []


def _refuse_not_finite(ids_BL: np.ndarray, name: str, batch: int, first: int) -> None:
    bad = np.argwhere(ids_BL < 0)
    if len(bad):
        row, token = bad[0]
        raise UserError(
            f"pairs: a log-probability is not finite in batch {batch} of {name}, at pair "
            f"{first + row}, token {token}; the shards before it are kept. Look at the teacher's "
            "weights, or compute in float32"
        )


def _batches(
    config: Config, root: Path, shards: dict[str, range]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name of the shard, ids) batch by batch; one is computed while the one before is read."""
    teacher = parts.load(config, root, "teacher")
    codes_VC = parts.load(config, root, "tokenizer").codebook
    batch, pending = config.pairs.batch * sharding.devices(), None
    start = jax.jit(
        lambda index_B: (
            noise_of(config.seed, index_B, teacher.groups.length, codes_VC.shape[1]),
            labels_of(index_B, config.data.num_classes),
        )
    )
    for name, index in shards.items():
        for first in range(index.start, index.stop, batch):
            index_B = sharding.rows(np.arange(first, first + batch, dtype=np.int32), batch)
            ids = map_batch(
                teacher, codes_VC, *start(index_B), guidance=config.guidance, solver=config.flow
            )
            if pending is not None:
                yield pending[0], np.asarray(pending[1])
            pending = (name, ids)
    if pending is not None:
        yield pending[0], np.asarray(pending[1])
