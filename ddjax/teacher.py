"""The stage `teacher`: train a small class-conditional AR teacher on the tokenizer's ids."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax import data, parts, pictures, sharding, tokenizer, train, trajectory
from ddjax.config import Config
from ddjax.config import Teacher as TeacherConfig
from ddjax.guidance import Guidance, Guided
from ddjax.models import MODELS
from ddjax.workdir import Stage

# One image in ten is kept from the teacher: a small data set is soon learned by heart.
HELD_OUT = 10


def loss(
    model: nnx.Module,
    frozen: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    config: TeacherConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of every token in nats; a share of the labels is dropped for guidance."""
    del frozen
    label = batch["label"]
    drop = jax.random.bernoulli(key, config.label_dropout, label.shape)
    condition = jnp.where(drop, model.null(label), label)
    log_p = jax.nn.log_softmax(model.logits(batch["ids"], condition))
    nll = -jnp.take_along_axis(log_p, batch["ids"][..., None], axis=-1)
    return jnp.mean(nll), {}


def run(config: Config, stage: Stage) -> str:
    """Train; returns one line about it."""
    images = data.load(config.data)
    coder = parts.load(config, stage.directory.parent, "tokenizer")
    rows = {"ids": tokenizer.encode(coder, images["image"]), "label": images["label"]}
    held_out = images["source"] % HELD_OUT == 0
    unseen = {name: array[held_out] for name, array in rows.items()}
    seen = {name: array[~held_out] for name, array in rows.items()}
    section = config.teacher
    cls = MODELS[section.kind]
    labels = jnp.arange(40) % config.data.num_classes
    model = train.train(
        name=stage.name,
        directory=stage.directory,
        kind=section.kind,
        init=lambda rngs: cls.from_tokenizer(section.model, coder, rngs=rngs),
        loss=functools.partial(loss, config=section),
        frozen=None,
        source=data.Arrays(seen),
        seed=config.seed,
        config=section.train,
        restore=config.restore,
        profile=config.profile,
        pictures=lambda model: {
            "samples": pictures.tile(
                sharding.host(_draw(model, coder, labels, config.guidance)), 10
            )
        },
    )
    evaluate = jax.jit(functools.partial(loss, config=section))
    nats = [
        evaluate(model, None, {name: array[:2000] for name, array in part.items()},
                 jax.random.key(0))[0]
        for part in (unseen, seen)
    ]
    return f"{section.train.steps} steps; {nats[0]:.3f} nats a token on images it has not seen, " \
        f"{nats[1]:.3f} on the others"


@functools.partial(jax.jit, static_argnames="guidance")
def _draw(
    model: nnx.Module, coder: nnx.Module, labels: jax.Array, guidance: Guidance
) -> jax.Array:
    ids = trajectory.sample_ids(
        Guided(model, guidance), labels, jax.random.key(0), trajectory.no_prefix(len(labels))
    )
    return coder.decode(coder.codebook[ids])
