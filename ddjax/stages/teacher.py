"""Stage `teacher`: train a small class-conditional AR teacher on the tokenizer's ids."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.config.schema import Config, TeacherSection
from ddjax.data.conditions import Conditioned, replaced
from ddjax.data.sources import Arrays, Subset
from ddjax.evaluation import pictures
from ddjax.method import keys, trajectory
from ddjax.method.guidance import Guidance, Guided
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.stages import images
from ddjax.storage import run_models
from ddjax.training import loop


def loss(
    model: nnx.Module,
    frozen: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    config: TeacherSection,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of every token in nats; a share of the conditions is dropped for guidance.

    Args:
      model: being trained.
      frozen: nothing.
      batch: "ids" [B, L], of any integer type, and "condition" with leading axis B.
      key: which conditions are dropped.
      config: the share.

    Returns:
      The loss, a scalar, and other scalars by name.
    """
    del frozen
    condition, ids_BL = batch["condition"], batch["ids"].astype(jnp.int32)
    drop_B = jax.random.bernoulli(key, config.label_dropout, ids_BL.shape[:1])
    condition = replaced(condition, model.null(condition), drop_B)
    log_p = jax.nn.log_softmax(model.logits(ids_BL, condition))
    nll = -jnp.take_along_axis(log_p, ids_BL[..., None], axis=-1)
    return jnp.mean(nll), {}


def run(config: Config, directory: Path) -> str:
    """Train; returns one line about it."""
    conditions = run_models.conditions(config)
    coder = run_models.load(config, directory.parent, "tokenizer")
    data = images.opened(config, directory.parent)
    rows = Arrays({
        "ids": images.ids(config, directory, coder, data),
        "condition": data.known.get("condition", data.known["label"]),
    })
    unseen, seen = (
        Conditioned(Subset(rows, np.flatnonzero(mine)), conditions)
        for mine in (data.held_out, ~data.held_out)
    )
    section = config.teacher
    cls = MODELS[section.kind]
    shown = conditions.encode(conditions.take(conditions.number(np.arange(40))))

    def draw(model: nnx.Module) -> np.ndarray:
        return sharding.to_host(_draw(model, coder, shown, config.guidance))

    model = loop.train(
        name="teacher",
        directory=directory,
        kind=section.kind,
        init=lambda rngs: cls.from_tokenizer(section.model, coder, rngs=rngs),
        loss=functools.partial(loss, config=section),
        frozen=None,
        source=seen,
        encode=seen.encode,
        seed=config.seed,
        config=section.train,
        restore=config.restore,
        profile=config.profile,
        pictures=lambda model: {"samples": pictures.tile(draw(model), 10)},
    )
    nats = [_mean_loss(model, part, section) for part in (unseen, seen)]
    return f"{section.train.steps} steps; {nats[0]:.3f} nats a token on images it has not seen, " \
        f"{nats[1]:.3f} on the others"


def _mean_loss(model: nnx.Module, examples: Conditioned, section: TeacherSection) -> float:
    """The loss over at most 2000 examples, from the first to the last, in even parts."""
    rows = np.linspace(0, len(examples) - 1, min(2000, len(examples))).astype(int)
    one = jax.jit(functools.partial(loss, config=section))
    parts = np.array_split(rows, -(-len(rows) // section.train.batch))
    values = [
        one(model, None, examples.encode(examples.take(part)), jax.random.key(0))[0]
        for part in parts
    ]
    return float(np.mean(values))


@functools.partial(jax.jit, static_argnames="guidance")
def _draw(
    model: nnx.Module, coder: nnx.Module, condition: Any, guidance: Guidance
) -> jax.Array:
    index = jnp.arange(len(jax.tree.leaves(condition)[0]))
    ids = trajectory.sample_ids(
        Guided(model, guidance), condition, keys.per_image(jax.random.key(0), index),
        trajectory.no_prefix(len(index)),
    )
    return coder.decode(coder.codebook[ids])
