"""The models of a run: trained in its workdir, or from a model folder that the config names."""

from pathlib import Path

from flax import nnx

from ddjax import keys, sharding, weights
from ddjax.config import Config, Model
from ddjax.errors import UserError
from ddjax.models import MODELS

# What `weights` says in place of a folder, to try things out or to measure their speed.
RANDOM = "random"

# How the published files end that are not .pt, and what else the converter wants.
_SUFFIX = {
    "var": "pth", "var_tokenizer": "pth", "var_student": "pth", "lpips": "pth --linear=vgg.pth",
}

# The stages that train a model of the seam, and the section of the config that may name its weights
# in their place.
_SECTION_OF_STAGE = {"tokenizer": "tokenizer", "teacher": "teacher", "distill": "student"}


def load(config: Config, root: Path, stage: str) -> nnx.Module:
    """The model that a stage makes: "tokenizer", "teacher", or the student of "distill".

    Args:
      config: may name a model folder instead.
      root: the workdir.
      stage: one of the three.

    Raises:
      UserError: as `load_model`.
    """
    section = _SECTION_OF_STAGE[stage]
    model = config.student_model if section == "student" else getattr(config, section)
    if stage == "teacher" and model.weights == RANDOM:
        rngs = nnx.Rngs(keys.stream(0, stage))
        tokenizer = load(config, root, "tokenizer")
        return sharding.whole(
            MODELS[model.kind].from_tokenizer(model.model, tokenizer, rngs=rngs)
        )
    return load_model(model, f"config.{section}.weights", root / stage / "model")


def load_model(section: Model, where: str, trained: Path) -> nnx.Module:
    """The model of a config's section: its `weights`, or else the folder it was trained into.

    Random weights are always the same, whatever the seed of a run.

    Raises:
      UserError: the folder is missing, damaged, or of other sizes than the config's.
    """
    if section.weights == RANDOM:
        rngs = nnx.Rngs(keys.stream(0, where))
        return sharding.whole(MODELS[section.kind](section.model, rngs=rngs))
    if section.weights:
        check_weights(where, section)
    return weights.load(section.weights or trained, section.kind, section.model)


def digest(config: Config, root: Path, stage: str) -> str:
    """What tells the weights of such a model from all others."""
    folder = getattr(config, _SECTION_OF_STAGE[stage]).weights
    return RANDOM if folder == RANDOM else weights.saved_digest(Path(folder or root / stage))


def given(config: Config) -> dict[str, str]:
    """The stages that are not run, each with the section of the config that names weights."""
    return {
        stage: section for stage, section in _SECTION_OF_STAGE.items()
        if getattr(config, section).weights
    }


def check_weights(where: str, section: Model) -> str:
    """The digest of the model folder that a section of the config names.

    Raises:
      UserError: it is missing (says how to make it), or damaged.
    """
    folder, kind = section.weights, section.kind
    if folder == RANDOM:
        return RANDOM
    if not Path(folder).exists():
        instead = ""
        if "perceptual_net" in where:
            instead = ", or set config.distill.perceptual=0 and config.student.split to all groups"
        # A file does not tell its grid, and the converter takes 16.
        grid = section.model.grid if kind in ("llamagen", "llamagen_student") else 16
        raise UserError(
            f"{where}: {folder} is missing; give the folder of a model, or make it with: python "
            "conversion/torch_to_flax.py "
            f"--model={kind} --checkpoint={Path(folder).name}.{_SUFFIX.get(kind, 'pt')}"
            f"{f' --grid={grid}' if grid != 16 else ''}{instead}"
        )
    return weights.saved_digest(Path(folder))
