"""Models of the demo: of a workdir, or from model folders."""

from pathlib import Path
from typing import NamedTuple

import jax

from ddjax.demo import requests
from ddjax.demo.drawing import is_out_of_memory
from ddjax.demo.requests import COUNTS
from ddjax.method.guidance import Guidance
from ddjax.pipeline import Pipeline
from ddjax.runtime import compilation
from ddjax.runtime.errors import UserError


class Models(NamedTuple):
    """What draws: a pipeline, which models it has ("teacher", "student"), and a name for it."""

    pipe: Pipeline
    parts: set[str]
    name: str


def of_workdir(workdir: str) -> Models:
    """The models of a finished run, read.

    Raises:
      UserError: it has no student or teacher, or one of them is damaged.
    """
    root = Path(workdir)
    pipe = Pipeline.from_workdir(root, batch=max(COUNTS))
    compilation.keep_programs(root)
    return _read(Models(pipe, {"teacher", "student"}, root.absolute().name))


def of_folders(
    tokenizer: str,
    student: str | None,
    teacher: str | None,
    *,
    steps: list[str],
    split: int | None,
    guidance: Guidance,
) -> Models:
    """Models from model folders, read.

    Args:
      tokenizer: its folder.
      student: likewise.
      teacher: likewise.
      steps: values of k that the student is sampled with.
      split: as in `Pipeline.from_folders`.
      guidance: of the teacher.

    Raises:
      UserError: a folder is missing or damaged, or a step is no whole number.
    """
    if not all(text.strip().isdigit() for text in steps):
        raise UserError(f"--steps={','.join(steps)}: give whole numbers, such as 0,80")
    folders = {"student": student, "teacher": teacher}
    parts = {part for part, folder in folders.items() if folder}
    pipe = Pipeline.from_folders(
        tokenizer, **folders, steps=tuple(map(int, steps)), split=split, guidance=guidance,
        batch=max(COUNTS),
    )
    name = " and ".join(Path(folder).name for folder in (student, teacher) if folder)
    return _read(Models(pipe, parts, name))


def _read(models: Models) -> Models:
    """What is missing or damaged ends the command, not the first drawing."""
    try:
        for way in requests.methods(models.pipe, models.parts):
            models.pipe.models(way)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"the device has no room for the models ({str(error).splitlines()[0]}); another "
            "program may hold its memory"
        ) from None
    return models
