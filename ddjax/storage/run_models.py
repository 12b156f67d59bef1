"""Model loading for a run: trained in the workdir, or from a model folder that the config names."""

import functools
from pathlib import Path
from typing import Any

from flax import nnx

from ddjax.config.schema import Config, ModelSection
from ddjax.data import conditions as condition_sources
from ddjax.data.conditions import Conditions
from ddjax.method import keys
from ddjax.method.baselines import Marginals
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import model_folder
from ddjax.storage.pair_store import Store
from ddjax.storage.workdir import Folder

# What `weights` says in place of a folder, to try things out or to measure their speed.
RANDOM = "random"

# How pairs are made again; of the folder of their stage.
PAIRS_REPAIR_HINT = "make the wrong ones again with: python -m ddjax.pairs repair {0.parent}"

# What a run makes for sampling, and the stage, and folder of the workdir, that makes it.
FOLDERS = {"tokenizer": "tokenizer", "teacher": "teacher", "student": "distill",
           "marginals": "pairs"}


def section(config: Config, role: str) -> ModelSection:
    """What the config says of the "tokenizer", "teacher" or "student"."""
    return config.student_model if role == "student" else getattr(config, role)


def load(config: Config, root: Path, role: str) -> nnx.Module:
    """The tokenizer, teacher or student of a run.

    Args:
      config: may name a model folder instead of what was trained.
      root: the workdir.
      role: of `FOLDERS`.

    Raises:
      UserError: as `load_model`.
    """
    model = section(config, role)
    if role == "teacher" and model.weights == RANDOM:
        rngs = nnx.Rngs(keys.stream(0, role))
        tokenizer = load(config, root, "tokenizer")
        teacher = MODELS[model.kind].from_tokenizer(model.model, tokenizer, rngs=rngs)
        return sharding.replicate(teacher)
    return load_model(model, f"config.{role}.weights", root / FOLDERS[role] / "model")


def part(config: Config, root: Path, conditions: Conditions, name: str) -> Any:
    """What sampling reads of a run: a field of `Models`, or the "sizes" of teacher and student.

    Args:
      config: of the run.
      root: the workdir.
      conditions: of the run.
      name: of the part.

    Raises:
      UserError: the stage that makes it has not finished, or what it made is damaged.
    """
    if name == "sizes":
        return config.teacher.model
    if name == "marginals" or not section(config, name).weights:
        again = PAIRS_REPAIR_HINT if name == "marginals" else model_folder.REPAIR_HINT
        directory, stage = root / FOLDERS[name], FOLDERS[name]
        Folder(directory, {}, repair=again.format(directory, stage)).check_finished(stage)
    if name != "marginals":
        return load(config, root, name)
    pairs = Store(root / "pairs").all()
    bucket_N = conditions.bucket(pairs["condition"])
    return sharding.replicate(Marginals.of_pairs(pairs["ids"], bucket_N, conditions.buckets))


def conditions(config: Config) -> Conditions:
    """The conditions of a run, with its text encoder.

    Raises:
      UserError: as `ddjax.data.conditions.load`, and when the encoder is needed as `load_model`.
    """

    @functools.cache
    def encoder() -> nnx.Module:
        return load_model(config.text, "config.text.weights", Path())

    return condition_sources.load(config, encoder)


def load_model(section: ModelSection, where: str, trained: Path) -> nnx.Module:
    """The model of a config's section: its `weights`, or else the folder it was trained into.

    Random weights are always the same, whatever the seed of a run.

    Raises:
      UserError: the folder is missing, damaged, or of other sizes than the config's.
    """
    if section.weights == RANDOM:
        rngs = nnx.Rngs(keys.stream(0, where))
        return sharding.replicate(MODELS[section.kind](section.model, rngs=rngs))
    if section.weights:
        check_weights(where, section)
    return model_folder.load(section.weights or trained, section.kind, section.model)


def digest(config: Config, root: Path, role: str) -> str:
    """Digest of the weights of such a model."""
    folder = section(config, role).weights
    return RANDOM if folder == RANDOM else model_folder.saved_digest(
        Path(folder or root / FOLDERS[role])
    )


def check_weights(where: str, section: ModelSection) -> str:
    """The digest of the model folder that a section of the config names.

    Raises:
      UserError: it is missing (says how to make it), or damaged.
    """
    folder = section.weights
    if folder == RANDOM:
        return RANDOM
    if not Path(folder).exists():
        ways, published = ["give the folder of a model"], MODELS[section.kind].published
        if published:
            command = published.command(section.kind, Path(folder).name, section.model)
            ways.append(f"make it with: {command}")
        if "tokenizer.perceptual_net" in where:
            ways.append("set config.tokenizer.perceptual=0")
        if "distill.perceptual_net" in where:
            ways.append("set config.distill.perceptual=0 and config.student.split to all groups")
        if "evaluate.features" in where:
            ways.append("leave out the stage evaluate and set config.distill.validate_every=0")
        raise UserError(f"{where}: {folder} is missing; {', or '.join(ways)}")
    return model_folder.saved_digest(Path(folder))
