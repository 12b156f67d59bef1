"""Stage `distill`: the student, trained by the methods of the config."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from ddjax.config.schema import MAP, SCORE, Config
from ddjax.data.conditions import Conditions
from ddjax.evaluation import pictures
from ddjax.method import keys
from ddjax.method.protocols import Student, Teacher
from ddjax.method.sampling import student_sample
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import caption_features, distill_map, distill_score, held_out
from ddjax.storage import model_folder, run_models
from ddjax.training import loop, validation


def run(config: Config, directory: Path) -> str:
    """Train; returns one line about it."""
    root, methods = directory.parent, config.distill.method
    teacher, tokenizer = (run_models.load(config, root, name) for name in ("teacher", "tokenizer"))
    conditions = caption_features.conditions(config)
    hooks = {
        "pictures": _pictures(config, conditions, tokenizer),
        "validation": held_out.validation(config, directory, teacher, tokenizer, conditions),
    }
    first = functools.partial(first_student, config, teacher)
    lines = []
    # The last method has the stage's own folder, and its hooks.
    if MAP in methods:
        folder, own = ("distill/map", {}) if SCORE in methods else ("distill", hooks)
        student, line = distill_map.train(
            config, root, folder, first, tokenizer, conditions, **own
        )
        lines.append(line)
    if SCORE in methods:
        if MAP not in methods:
            student = first(rngs=nnx.Rngs(keys.stream(config.seed, "distill.init")))
        lines.append(distill_score.train(
            config, directory, student, teacher, tokenizer.codebook, conditions, **hooks
        ))
    return "; ".join(lines) + _validated(directory)


def first_student(config: Config, teacher: Teacher, *, rngs: nnx.Rngs) -> Student:
    """The student that training begins with: of the teacher's weights, or of `distill.start`'s.

    Args:
      config: of the run.
      teacher: whose weights it has where the config names no student.
      rngs: of the weights that the teacher does not have.

    Raises:
      UserError: that is no such student, or of other sizes.
    """
    student = MODELS[config.student.kind].from_teacher(teacher, rngs=rngs)
    start = config.distill.start
    if start:
        kind = model_folder.read_kind(start)
        if not isinstance(student, MODELS[kind]):
            raise UserError(
                f"config.distill.start: {start} holds a {kind}, must hold a {config.student.kind}"
            )
        begun = model_folder.load(start, kind, config.teacher.model)
        nnx.update(student, nnx.state(begun))  # what only a refining student has stays
    return student


def _validated(directory: Path) -> str:
    """What the last validation found, and whose model was kept; "" without validation."""
    curve = validation.read(directory)
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
