"""Configs of the repository by name, read without ml_collections, which a bare image has not."""

import dataclasses
import runpy
from pathlib import Path

from ddjax.config.reading import from_dict
from ddjax.config.schema import Config

_CONFIGS = Path(__file__).parents[2] / "configs"


def read(name: str) -> Config:
    """The config that a name stands for, "llamagen:B", with its caption file where it has one."""
    file, size = name.split(":")
    return from_dict(runpy.run_path(str(_CONFIGS / f"{file}.py"))["keys"](size))


def in_dtype(config: Config, dtype: str) -> Config:
    """The same job, with teacher and student computing in `dtype`."""
    model = dataclasses.replace(config.teacher.model, dtype=dtype)
    return dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, model=model))
