"""Model folders: config.json and weights.safetensors, with a digest that is checked at load.

The same form for what a run trained and for what was converted from PyTorch.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from ddjax import files
from ddjax.errors import UserError
from ddjax.models import MODELS

# Sizes that say how a model is used, not what was learned: the type of the computation, and the
# images of a convolutional tokenizer.
FREE = ("dtype", "image_size")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, "trunk/norm/scale"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def path_name(path: tuple) -> str:
    """The name of a leaf; NNX's wrapper around an array does not show in it."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(f"{name} {array_digest(arrays[name])}\n".encode())
    return sha.hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of one array: type, shape and bytes."""
    array = np.ascontiguousarray(array)
    sha = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def save(directory: Path, kind: str, model: nnx.Module) -> None:
    """Write the folder of a model, with its sizes in `model.config`; see `write`."""
    arrays = {name: np.asarray(leaf) for name, leaf in flatten(model).items()}
    write(directory, kind, model.config, arrays)


def write(directory: Path, kind: str, config: Any, arrays: dict[str, np.ndarray]) -> None:
    """Write a model folder, atomically.

    Args:
      directory: must not exist.
      kind: of `ddjax.models.MODELS`.
      config: the sizes, that kind's frozen dataclass.
      arrays: the leaves of the model, by the names of `flatten`.
    """
    about = {"kind": kind, "config": dataclasses.asdict(config), "sha256": digest(arrays)}
    with files.atomic(directory) as temporary:
        temporary.mkdir()
        safetensors.numpy.save_file(arrays, temporary / "weights.safetensors")
        (temporary / "config.json").write_text(json.dumps(about, indent=1) + "\n")


def load(directory: Path | str, kind: str | None = None, sizes: Any = None) -> nnx.Module:
    """Read a model folder, or the one of a finished stage of a workdir.

    Args:
      directory: the folder.
      kind: the kind it must be, if any.
      sizes: the sizes it must have, if any, but for those of `FREE`, which are the reader's choice.

    Raises:
      UserError: as `read`, or not what is wanted.
    """
    directory = _model_folder(Path(directory))
    found, config, arrays = read(directory)
    if kind not in (None, found):
        raise UserError(f"{directory} holds a {found}, where a {kind} is wanted")
    if sizes is not None:
        _check_sizes(directory, config, sizes)
    return fill(template(found, sizes or config), arrays, str(directory / "weights.safetensors"))


def read(directory: Path | str) -> tuple[str, Any, dict[str, np.ndarray]]:
    """Kind, config and arrays of a model folder.

    Raises:
      UserError: not there, damaged, or not what its config says; the file is named.
    """
    directory = Path(directory)
    about = _read_about(directory)
    file = directory / "weights.safetensors"
    try:
        arrays = safetensors.numpy.load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file} is missing; make the folder anew") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}); make the folder anew") from None
    if digest(arrays) != about["sha256"]:
        raise UserError(f"{file} is damaged: its digest is not that of config.json")
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()}
    return about["kind"], MODELS[about["kind"]].Config(**sizes), arrays


def template(kind: str, config: Any) -> nnx.Module:
    """A model of a kind whose leaves are shapes and types only; takes no memory."""
    return jax.eval_shape(lambda: MODELS[kind](config, rngs=nnx.Rngs(0)))


def _model_folder(directory: Path) -> Path:
    stage = directory / "model"
    return stage if (stage / "config.json").exists() else directory


def _check_sizes(directory: Path, there: Any, wanted: Any) -> None:
    there, wanted = dataclasses.asdict(there), dataclasses.asdict(wanted)
    different = [
        f"{key} {there[key]!r}, not {wanted[key]!r}"
        for key in wanted if key not in FREE and there[key] != wanted[key]
    ]
    if different:
        raise UserError(f"{directory} is of other sizes than the config: {', '.join(different)}")


def fill(template: Any, arrays: dict[str, np.ndarray], source: str) -> Any:
    """Put arrays into the leaves of a template of the same names, shapes and types.

    Raises:
      UserError: anything missing, left over, or of another shape or type; all are named.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
    names = [path_name(path) for path, _ in leaves]
    problems = [f"{name} is left over" for name in sorted(arrays.keys() - set(names))]
    for name, (_, leaf) in zip(names, leaves, strict=True):
        found = arrays.get(name)
        if found is None:
            problems.append(f"{name} is missing")
        elif (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            problems.append(
                f"{name} is {found.dtype}{list(found.shape)}, not {leaf.dtype}{list(leaf.shape)}"
            )
    if problems:
        raise UserError(f"{source}: {'; '.join(problems)}")
    return jax.tree.unflatten(treedef, [jax.numpy.asarray(arrays[name]) for name in names])


def _read_about(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    try:
        about = json.loads(file.read_text())
        if about["kind"] not in MODELS or not isinstance(about["config"], dict):
            raise ValueError(f"unknown kind {about['kind']!r}")
        return {"sha256": about["sha256"], **about}
    except FileNotFoundError:
        raise UserError(f"{directory} is not a model folder: {file} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); make the folder anew") from None


def saved_digest(directory: Path) -> str:
    """The digest that a model folder was written with."""
    return _read_about(_model_folder(directory))["sha256"]
