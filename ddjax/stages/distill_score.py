"""Score distillation: losses and training of the student and of the fake model that follows it.

Student and teacher disagree on how the next token is distributed; the student's own distribution is
what a fake model, a copy of the teacher trained on the student's ids, says. Both are trained
together: several updates of the fake model, then one of the student, each on fresh noise.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddjax.config.schema import Config, ScoreSection
from ddjax.data.conditions import Conditioned, Conditions
from ddjax.data.sources import Arrays
from ddjax.method import score_distillation
from ddjax.method.codes import normalise_codes
from ddjax.method.guidance import Guidance, Guided
from ddjax.method.protocols import Student, Teacher
from ddjax.training import loop
from ddjax.training.descent import Loss
from ddjax.training.following import Beside, Followed, Following

# Conditions of the fresh noise, in turn; the noise itself never repeats.
CONDITIONS = 2**20


class Frozen(NamedTuple):
    """What neither loss trains."""

    codes_VC: jax.Array
    teacher: Teacher


def drawn(
    student: Student, codes_VC: jax.Array, condition: Any, key: jax.Array, passes: int
) -> jax.Array:
    """Logits [B, L, V] of samples of fresh noise.

    Args:
      student: that draws; refining, where there are more passes than one.
      codes_VC: the codebook.
      condition: pytree with leading axis B.
      key: of the noise, and of how many passes an image is drawn in.
      passes: the most; the gradient is that of the last pass of each image.
    """
    batch = len(jax.tree.leaves(condition)[0])
    key, turn_key = jax.random.split(key)
    eps = jax.random.normal(key, (batch, student.groups.length, codes_VC.shape[1]))
    if passes == 1:
        return student(eps, 0, condition)[0]
    earlier_B = jax.random.randint(turn_key, (batch,), 0, passes)

    def again(last_BLC: jax.Array, turn: jax.Array) -> tuple[jax.Array, None]:
        drawn_BLC = codes_VC[student.refined(eps, last_BLC, condition)[0].argmax(-1)]
        return jnp.where(turn < earlier_B[:, None, None], drawn_BLC, last_BLC), None

    last_BLC = jax.lax.scan(again, jnp.zeros_like(eps), jnp.arange(passes - 1))[0]
    return student.refined(eps, jax.lax.stop_gradient(last_BLC), condition)[0]


def fake_loss(
    fake: Teacher, beside: Beside, batch: dict[str, Any], key: jax.Array, *, passes: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of a teacher on the ids that a student draws.

    Args:
      fake: being trained.
      beside: the student, and `Frozen`.
      batch: "condition", with leading axis B.
      key: of the noise.
      passes: see `drawn`.
    """
    (student, frozen), condition = beside, batch["condition"]
    ids_BL = drawn(student, frozen.codes_VC, condition, key, passes).argmax(-1).astype(jnp.int32)
    logits_BLV = fake.logits(ids_BL, condition)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, ids_BL)
    return jnp.mean(nats), {}


def loss(
    student: Student,
    beside: Beside,
    batch: dict[str, Any],
    key: jax.Array,
    *,
    section: ScoreSection,
    guidance: Guidance,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The student's score distillation.

    Args:
      student: being trained.
      beside: the fake model, and `Frozen`.
      batch: "condition", with leading axis B.
      key: of the noise.
      section: of the config.
      guidance: how the teacher is sampled.
    """
    (fake, frozen), condition, keys = beside, batch["condition"], jax.random.split(key, 3)
    logits_BLV = drawn(student, frozen.codes_VC, condition, keys[0], section.passes)
    codes_VC = normalise_codes(frozen.codes_VC)
    ids_BL, x_BLC = score_distillation.straight_through(logits_BLV, codes_VC, section.temperature)
    towards = score_distillation.direction(
        Guided(frozen.teacher, guidance).log_probs(ids_BL, condition),
        jax.nn.log_softmax(fake.logits(ids_BL, condition)),
        x_BLC,
        section.levels.draw(keys[1], ids_BL.shape),
        jax.random.normal(keys[2], x_BLC.shape),
        codes_VC,
    )
    distance = jnp.mean(jnp.abs(towards))
    return score_distillation.loss(towards, x_BLC), {"direction": distance}


def loss_of(config: Config) -> Loss:
    """The student's loss in a run."""
    return functools.partial(loss, section=config.distill.score, guidance=config.guidance)


def following_of(config: Config) -> Following:
    """How the fake model follows the student in a run."""
    section = config.distill.score
    fake = functools.partial(fake_loss, passes=section.passes)
    return Following(fake, section.fake_updates, section.fake_rate)


def train(
    config: Config,
    directory: Path,
    student: Student,
    teacher: Teacher,
    codes_VC: jax.Array,
    conditions: Conditions,
    **hooks: Any,
) -> str:
    """Train a student by its scores; returns a line about it.

    Args:
      config: of the run.
      directory: gets `fake/`, and what `loop.train` writes.
      student: to begin with.
      teacher: of the run.
      codes_VC: the codebook.
      conditions: of the run.
      hooks: further arguments of `loop.train`.
    """
    section = config.distill.score
    numbers = conditions.number(np.arange(CONDITIONS))
    source = Conditioned(Arrays({"condition": numbers}), conditions)
    shared = {"source": source, "encode": source.encode, "seed": config.seed,
              "restore": config.restore}
    frozen, follow = Frozen(codes_VC, teacher), following_of(config)
    fake = loop.train(
        name="fake model",
        directory=directory / "fake",
        kind=config.teacher.kind,
        init=lambda rngs: jax.tree.map(jnp.copy, teacher),  # the steps use up its buffers
        loss=follow.loss,
        frozen=Beside(student, frozen),
        config=section.fake,
        **shared,
    )
    loop.train(
        name="score",
        directory=directory,
        kind=config.student.kind,
        init=lambda rngs: Followed(student, fake),
        loss=loss_of(config),
        follow=follow,
        frozen=frozen,
        config=section.train,
        profile=config.profile,
        **shared,
        **hooks,
    )
    return f"{section.train.steps} steps of score distillation"
