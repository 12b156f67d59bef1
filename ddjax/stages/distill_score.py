"""Score distillation: losses and training of the student and of the fake model that follows it.

Student and teacher disagree on how the next token is distributed; the student's own distribution is
what a fake model, a copy of the teacher trained on the student's ids, says. Both are trained
together, each step on fresh noise, and the fake model's pass over the student's ids serves both
losses: its own cross-entropy, and `ddjax.method.score_distillation.direction`.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ddjax.config.schema import Config, ScoreSection
from ddjax.data.conditions import Conditioned, Conditions
from ddjax.data.sources import Arrays
from ddjax.method import score_distillation
from ddjax.method.codes import normalise_codes
from ddjax.method.guidance import Guidance, Guided
from ddjax.method.protocols import Student, Teacher
from ddjax.training import loop

# Conditions of the fresh noise, in turn; the noise itself never repeats.
CONDITIONS = 2**20


class Players(nnx.Module):
    """What is trained together: the student, and the fake model that follows it.

    Args:
      student: whose weights are averaged and kept.
      fake: a teacher.
      rate: the fake model's learning rate, in units of the student's.
    """

    def __init__(self, student: Student, fake: Teacher, rate: float) -> None:
        self.student, self.fake = student, fake
        self.layout = dataclasses.replace(
            student.layout, rates=(("fake", rate),), averaged="student"
        )


class Frozen(NamedTuple):
    """What the losses read and nothing trains; `student` for the fake model's first lesson."""

    codes_VC: jax.Array
    teacher: Teacher | None = None
    student: Student | None = None


def drawn(
    student: Student, codes_VC: jax.Array, condition: Any, key: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """One-step samples of fresh noise: ids [B, L], vectors [B, L, C] straight through.

    Args:
      student: that draws.
      codes_VC: the codebook.
      condition: pytree with leading axis B.
      key: of the noise.
      temperature: see `ddjax.method.score_distillation.straight_through`.
    """
    batch = len(jax.tree.leaves(condition)[0])
    eps = jax.random.normal(key, (batch, student.groups.length, codes_VC.shape[1]))
    logits, _ = student(eps, 0, condition)
    return score_distillation.straight_through(logits, normalise_codes(codes_VC), temperature)


def fake_loss(
    fake: Teacher, frozen: Frozen, batch: dict[str, Any], key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of a teacher on the ids that a student draws.

    Args:
      fake: being trained.
      frozen: with the student.
      batch: "condition", with leading axis B.
      key: of the noise.
    """
    ids_BL, _ = drawn(frozen.student, frozen.codes_VC, batch["condition"], key, 1.0)
    return _nats(fake.logits(ids_BL, batch["condition"]), ids_BL), {}


def loss(
    players: Players,
    frozen: Frozen,
    batch: dict[str, Any],
    key: jax.Array,
    *,
    section: ScoreSection,
    guidance: Guidance,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The fake model's cross-entropy, and the student's score distillation; no term is of both.

    Args:
      players: being trained.
      frozen: with the teacher.
      batch: "condition", with leading axis B.
      key: of the noise.
      section: of the config.
      guidance: how the teacher is sampled.
    """
    condition, keys = batch["condition"], jax.random.split(key, 3)
    ids_BL, x_BLC = drawn(
        players.student, frozen.codes_VC, condition, keys[0], section.temperature
    )
    logits_BLV = players.fake.logits(ids_BL, condition)
    nats = _nats(logits_BLV, ids_BL)
    towards = score_distillation.direction(
        Guided(frozen.teacher, guidance).log_probs(ids_BL, condition),
        jax.nn.log_softmax(logits_BLV),
        x_BLC,
        section.levels.draw(keys[1], ids_BL.shape),
        jax.random.normal(keys[2], x_BLC.shape),
        normalise_codes(frozen.codes_VC),
    )
    distance = jnp.mean(jnp.abs(towards))
    value = nats + score_distillation.loss(towards, x_BLC)
    return value, {"fake_nats": nats, "direction": distance}


def _nats(logits_BLV: jax.Array, ids_BL: jax.Array) -> jax.Array:
    """Mean cross-entropy of a token."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_BLV, ids_BL))


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
    fake = loop.train(
        name="fake model",
        directory=directory / "fake",
        kind=config.teacher.kind,
        init=lambda rngs: jax.tree.map(jnp.copy, teacher),  # the steps use up its buffers
        loss=fake_loss,
        frozen=Frozen(codes_VC, student=student),
        config=section.fake,
        **shared,
    )
    loop.train(
        name="score",
        directory=directory,
        kind=config.student.kind,
        init=lambda rngs: Players(student, fake, section.fake_rate),
        loss=functools.partial(loss, section=section, guidance=config.guidance),
        frozen=Frozen(codes_VC, teacher=teacher),
        config=section.train,
        profile=config.profile,
        **shared,
        **hooks,
    )
    return f"{section.train.steps} steps of score distillation"
