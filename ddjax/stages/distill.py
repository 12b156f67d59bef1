"""Stage `distill`: the student's loss, and its training along the teacher's trajectories.

Distilled Decoding, algorithm 2: pick a step k, feed X_k, predict X_G. Needs no images.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ddjax.config.schema import Config, DistillSection
from ddjax.data.conditions import Conditioned, Conditions
from ddjax.evaluation import pictures
from ddjax.method import keys, trajectory
from ddjax.method.sampling import student_sample
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.stages import feature_net, pair_generation, score, validation
from ddjax.storage import run_models
from ddjax.storage.pair_store import Store
from ddjax.training import loop
from ddjax.training import validation as validation_curve
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


def run(config: Config, directory: Path) -> str:
    """Train by the methods of the config; returns one line about it."""
    root, section = directory.parent, config.distill
    teacher, tokenizer = (run_models.load(config, root, name) for name in ("teacher", "tokenizer"))
    conditions = run_models.conditions(config)
    hooks = {
        "pictures": _pictures(config, conditions, tokenizer),
        "validation": validation.of_run(config, directory, teacher, tokenizer, conditions),
    }
    if "score" not in section.method:
        about = _learn_map(config, directory, teacher, tokenizer, conditions, hooks)[1]
        return about + _validated(directory)
    lines = []
    if "map" in section.method:
        student, about = _learn_map(
            config, directory / "map", teacher, tokenizer, conditions, {"pictures": hooks["pictures"]}
        )
        lines.append(f"map: {about}")
    else:
        student = MODELS[config.student.kind].from_teacher(
            teacher, rngs=nnx.Rngs(keys.stream(config.seed, "distill.init"))
        )
    score.train(
        config, directory, student, teacher, tokenizer.codebook, conditions, **hooks
    )
    lines.append(f"score: {section.score.train.steps} steps{_validated(directory)}")
    return "; ".join(lines)


def _learn_map(
    config: Config,
    directory: Path,
    teacher: nnx.Module,
    tokenizer: nnx.Module,
    conditions: Conditions,
    hooks: dict[str, Any],
) -> tuple[nnx.Module, str]:
    """A student of the map, and a line about it."""
    section, root = config.distill, directory
    while root.name != "distill":
        root = root.parent
    perceptual_net = None
    if section.perceptual:
        perceptual_net = feature_net.load(
            "perceptual net", "distill.perceptual_net", directory / "perceptual_net",
            section.perceptual_net, config,
        )
    store = Store(root.parent / "pairs")
    source = Conditioned(store.source(), conditions)
    loss_fn = loss_of(config, noise_seed=store.manifest()["settings"]["seed"])
    frozen = Frozen(tokenizer, perceptual_net)
    cls = MODELS[config.student.kind]
    student = loop.train(
        name="distill",
        directory=directory,
        kind=config.student.kind,
        init=lambda rngs: cls.from_teacher(teacher, rngs=rngs),
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
        student, frozen, source.encode(sharding.shard_batch(last, part)), jax.random.key(0)
    )
    return student, (
        f"{section.train.steps} steps on {len(source)} pairs; cross-entropy "
        f"{scalars['cross_entropy']:.3f}, {scalars['tokens_equal']:.0%} of tokens equal on pairs "
        "it was trained on"
    )


def _validated(directory: Path) -> str:
    """What the last validation found, and whose model was kept; "" without validation."""
    curve = validation_curve.read(directory)
    if curve is None:
        return ""
    rows = {row["step"]: row for row in curve["rows"]}
    which = "at the end" if curve["kept"] is None else f"at step {curve['kept']}, the best, kept"
    row = rows[curve["kept"] or max(rows)]
    return f"; held-out noise: {row['tokens_equal']:.0%} equal, FD {row['fd']:.3g} {which}"


def _pictures(config: Config, conditions: Conditions, tokenizer: nnx.Module) -> loop.Pictures:
    """One-step samples for TensorBoard, always of the same noise."""
    shown = np.arange(40, dtype=np.int32)
    condition = conditions.encode(conditions.take(conditions.number(shown)))
    eps = keys.noise(
        keys.stream(config.seed, "distill.pictures"), shown, config.groups.length,
        tokenizer.codebook.shape[1],
    )

    @jax.jit
    def draw(student: nnx.Module, tokenizer: nnx.Module, condition: Any) -> jax.Array:
        drawn = student_sample(
            student, tokenizer.codebook, eps, condition, steps=(0,), split=config.student.split
        )
        return tokenizer.decode(drawn.x_BLC)

    def samples(student: nnx.Module) -> dict[str, np.ndarray]:
        images = sharding.to_host(draw(student, tokenizer, condition))
        return {"student_1step": pictures.tile(images, 10)}

    return samples
