"""Map distillation: the student's loss and its training along the teacher's trajectories.

Distilled Decoding 1 (arXiv 2412.17153), algorithm 2: pick a step k, feed X_k, predict X_G.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ddjax.config.schema import Config, DistillSection
from ddjax.data.conditions import Conditioned, Conditions
from ddjax.method import trajectory
from ddjax.method.protocols import Student, Tokenizer
from ddjax.runtime import sharding
from ddjax.stages import feature_net, pair_generation
from ddjax.storage.pair_store import Store
from ddjax.training import loop
from ddjax.training.loop import Loss


class Frozen(NamedTuple):
    """What the loss reads and nothing trains."""

    tokenizer: nnx.Module
    perceptual_net: nnx.Module | None


def loss(
    student: nnx.Module,
    frozen: Frozen,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    section: DistillSection,
    steps: tuple[int, ...],
    noise_seed: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss on the groups that were noise (section 3.3 of the paper).

    Cross-entropy of the logits, and the perceptual distance between the image of the predicted
    vectors and that of the true codes.

    Args:
      student: being trained.
      frozen: see `Frozen`.
      batch: "index" [B] of pairs, "condition" with leading axis B, "ids" [B, L].
      key: which k each image gets.
      section: weights of the two terms.
      steps: the values of k.
      noise_seed: of the pairs.
    """
    codes_VC, groups = frozen.tokenizer.codebook, student.groups
    ids_BL = batch["ids"].astype(jnp.int32)
    eps = pair_generation.noise_of(noise_seed, batch["index"], groups.length, codes_VC.shape[1])
    k = jnp.asarray(steps, jnp.int32)[jax.random.randint(key, ids_BL.shape[:1], 0, len(steps))]
    data_BLC = codes_VC[ids_BL]
    x_k = trajectory.x_at(k, data_BLC, eps, groups)
    logits, vectors = student(x_k, k, batch["condition"])

    is_noise = 1.0 - groups.is_data(k)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, ids_BL)
    cross_entropy = jnp.sum(nll * is_noise) / jnp.sum(is_noise)
    equal = jnp.sum((logits.argmax(-1) == ids_BL) * is_noise) / jnp.sum(is_noise)
    scalars = {"cross_entropy": cross_entropy, "tokens_equal": equal}
    value = section.cross_entropy * cross_entropy
    if section.perceptual:
        image = frozen.tokenizer.decode(trajectory.x_at(k, data_BLC, vectors, groups))
        wanted = frozen.tokenizer.decode(data_BLC)
        distance = jnp.mean(frozen.perceptual_net.distance(image, wanted))
        scalars["perceptual"] = distance
        value = value + section.perceptual * distance
    return value, scalars


def loss_of(config: Config, noise_seed: int) -> Loss:
    """The loss of a run."""
    return functools.partial(
        loss, section=config.distill, steps=config.student.steps, noise_seed=noise_seed
    )


def train(
    config: Config,
    root: Path,
    folder: str,
    first: Callable[..., Student],
    tokenizer: Tokenizer,
    conditions: Conditions,
    **hooks: Any,
) -> tuple[Student, str]:
    """A student of the map, averaged, and a line about it.

    Args:
      config: of the run.
      root: the workdir.
      folder: of the training, in it.
      first: makes the student to begin with, of `rngs`.
      tokenizer: of the run.
      conditions: of the run.
      hooks: further arguments of `loop.train`.
    """
    section, perceptual_net = config.distill, None
    if section.perceptual:
        perceptual_net = feature_net.load(
            "perceptual net", "distill.perceptual_net", root, f"{folder}/perceptual_net",
            section.perceptual_net, config,
        )
    store = Store(root / "pairs")
    source = Conditioned(store.source(), conditions)
    loss_fn = loss_of(config, noise_seed=store.manifest()["settings"]["seed"])
    frozen = Frozen(tokenizer, perceptual_net)
    made = loop.train(
        name="distill",
        directory=root / folder,
        kind=config.student.kind,
        init=lambda rngs: first(rngs=rngs),
        loss=loss_fn,
        frozen=frozen,
        source=source,
        encode=source.encode,
        seed=config.seed,
        config=section.train,
        restore=config.restore,
        profile=config.profile,
        **hooks,
    )
    # As many at once as a step of the training has.
    part = section.train.batch // section.train.accumulate
    last = source.take(len(source) - part + sharding.local_rows(part))
    _, scalars = jax.jit(lambda student, *rest: loss_fn(sharding.gather_unstacked(student), *rest))(
        made, frozen, source.encode(sharding.shard_batch(last, part)), jax.random.key(0)
    )
    return made, (
        f"{section.train.steps} steps on {len(source)} pairs; cross-entropy "
        f"{scalars['cross_entropy']:.3f}, {scalars['tokens_equal']:.0%} of tokens equal on pairs "
        "it was trained on"
    )
