"""The stage `distill`: train the student to jump along the teacher's trajectories.

Distilled Decoding, algorithm 2: pick a step k, feed X_k, predict X_G. Needs no images.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ddjax import (
    classify,
    keys,
    pair_generation,
    parts,
    pictures,
    sample,
    sharding,
    train,
    trajectory,
)
from ddjax.config import Config
from ddjax.models import MODELS
from ddjax.pair_store import Store
from ddjax.workdir import Stage


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
    config: Config,
    noise_seed: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss on the groups that were noise (section 3.3 of the paper).

    Cross-entropy of the logits, and the perceptual distance between the image of the predicted
    vectors and that of the true codes. `noise_seed` is that of the pairs.
    """
    codes_VC, groups = frozen.tokenizer.codebook, student.groups
    ids_BL = batch["ids"].astype(jnp.int32)
    eps = pair_generation.noise_of(noise_seed, batch["index"], groups.length, codes_VC.shape[1])
    steps = jnp.asarray(config.student.steps, jnp.int32)
    k = steps[jax.random.randint(key, ids_BL.shape[:1], 0, len(steps))]
    data_BLC = codes_VC[ids_BL]
    x_k = trajectory.x_at(k, data_BLC, eps, groups)
    logits, vectors = student(x_k, k, batch["condition"])

    is_noise = 1.0 - groups.is_data(k)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, ids_BL)
    cross_entropy = jnp.sum(nll * is_noise) / jnp.sum(is_noise)
    equal = jnp.sum((logits.argmax(-1) == ids_BL) * is_noise) / jnp.sum(is_noise)
    scalars = {"cross_entropy": cross_entropy, "tokens_equal": equal}
    value = config.distill.cross_entropy * cross_entropy
    if config.distill.perceptual:
        image = frozen.tokenizer.decode(trajectory.x_at(k, data_BLC, vectors, groups))
        wanted = frozen.tokenizer.decode(data_BLC)
        distance = jnp.mean(frozen.perceptual_net.distance(image, wanted))
        scalars["perceptual"] = distance
        value = value + config.distill.perceptual * distance
    return value, scalars


def run(config: Config, stage: Stage) -> str:
    """Train; returns one line about it."""
    root = stage.directory.parent
    teacher, tokenizer = (parts.load(config, root, name) for name in ("teacher", "tokenizer"))
    section = config.distill
    perceptual_net = None
    if section.perceptual:
        perceptual_net = classify.net(
            "perceptual net", "distill.perceptual_net", stage.directory / "perceptual_net",
            section.perceptual_net, config,
        )
    store = Store(root / "pairs")
    source = store.source()
    loss_fn = functools.partial(
        loss, config=config, noise_seed=store.manifest()["settings"]["seed"]
    )
    frozen = Frozen(tokenizer, perceptual_net)
    cls = MODELS[config.student.kind]
    shown = jnp.arange(40, dtype=jnp.int32)
    eps = keys.noise(
        keys.stream(config.seed, "distill.pictures"), shown, teacher.groups.length,
        tokenizer.codebook.shape[1],
    )
    labels = shown % config.data.num_classes

    @jax.jit
    def draw(student: nnx.Module, tokenizer: nnx.Module) -> jax.Array:
        x = sample.student_sample(
            student, tokenizer.codebook, eps, labels, steps=(0,), split=config.student.split
        )
        return tokenizer.decode(x)

    def samples(student: nnx.Module) -> dict[str, np.ndarray]:
        images = sharding.host(draw(student, tokenizer))
        return {"student_1step": pictures.tile(images, 10)}

    student = train.train(
        name=stage.name,
        directory=stage.directory,
        kind=config.student.kind,
        init=lambda rngs: cls.from_teacher(teacher, rngs=rngs),
        loss=loss_fn,
        frozen=frozen,
        source=source,
        seed=config.seed,
        config=section.train,
        restore=config.restore,
        profile=config.profile,
        pictures=samples,
    )
    # As many at once as a step of the training has.
    part = section.train.batch // section.train.accumulate
    last = source.take(len(source) - part + sharding.local_rows(part))
    _, scalars = jax.jit(lambda student, *rest: loss_fn(sharding.gather_unstacked(student), *rest))(
        student, frozen, sharding.rows(last, part), jax.random.key(0)
    )
    return f"{section.train.steps} steps on {len(source)} pairs; cross-entropy " \
        f"{scalars['cross_entropy']:.3f}, {scalars['tokens_equal']:.0%} of tokens equal on pairs " \
        "it was trained on"
