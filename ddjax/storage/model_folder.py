"""Model folders: config.json and weights.safetensors, with a digest that is checked at load.

The same form for what a run trained and for what was converted from PyTorch.
"""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
import safetensors
from flax import nnx

from ddjax.models import DTYPES, MODELS
from ddjax.runtime import hosts, progress, sharding, trees
from ddjax.runtime.errors import UserError
from ddjax.storage import files

# Sizes that say how a model is used, not what was learned: the type of the computation, and the
# images of a convolutional tokenizer, and how Inception resizes them.
FREE = ("dtype", "image_size", "resize")

# How the model of a stage is made again; of the stage's folder and its name.
REPAIR_HINT = (
    "move {0}/finished.json, and what is left of {0}/model, aside and run stage {1} again "
    "(config.stages={1}), which goes on from its last checkpoint"
)

_GIVE = (
    "give one that a stage has made, such as runs/digits/teacher, or conversion/torch_to_flax.py"
)

SAFETENSORS_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int32": "I32"}


def digest(of_arrays: dict[str, str]) -> str:
    """SHA-256 over the names and digests of arrays."""
    lines = (f"{name} {of_array}\n" for name, of_array in sorted(of_arrays.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of one array: type, shape and bytes."""
    array = np.ascontiguousarray(array)
    sha = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def save(directory: Path, kind: str, model: nnx.Module) -> None:
    """Write the folder of a model, with its sizes in `model.config`; see `write`."""
    leaves = trees.flatten(model)
    arrays = map(sharding.to_host, leaves.values())
    if hosts.is_first():
        write(directory, kind, model.config, leaves, arrays)
    else:
        collections.deque(arrays, maxlen=0)  # every process has a part in gathering them
    hosts.barrier(f"{directory} written")


def write(
    directory: Path,
    kind: str,
    config: Any,
    leaves: Mapping[str, Any],
    arrays: Iterable[np.ndarray],
) -> str:
    """Write a model folder, atomically and array by array: no more than one is held.

    Args:
      directory: must not exist.
      kind: of `ddjax.models.MODELS`.
      config: the sizes, that kind's frozen dataclass.
      leaves: shape and type by name, as `trees.flatten` gives them.
      arrays: one for each of `leaves`, in their order.

    Returns:
      the digest.
    """
    with files.atomic(directory) as temporary:
        temporary.mkdir()
        with (temporary / "weights.safetensors").open("wb") as file:
            file.write(_safetensors_header(leaves))
            # Unlike a loop, a map lets go of an array before it asks for the next.
            written = map(functools.partial(_write_array, file), arrays)
            of_arrays = dict(zip(leaves, written, strict=True))
        about = {"kind": kind, "config": dataclasses.asdict(config), "sha256": digest(of_arrays)}
        about["config_sha256"] = files.content_digest(about)
        (temporary / "config.json").write_text(json.dumps(about, indent=1) + "\n")
    return about["sha256"]


def _write_array(file: BinaryIO, array: np.ndarray) -> str:
    """Append the bytes of an array; returns its digest."""
    array = np.ascontiguousarray(array)
    file.write(array.reshape(-1).view(np.uint8).data)
    return array_digest(array)


def _damaged(file: Path, why: Any) -> UserError:
    return UserError(f"{file} is damaged ({why}); move {file.parent} aside and make it again")


def _safetensors_header(leaves: Mapping[str, Any]) -> bytes:
    """The head of a safetensors file; the data follow without a gap.

    The library writes from memory alone and holds all arrays twice while it does.
    """
    header, end = {}, 0
    for name, leaf in leaves.items():
        start, end = end, end + leaf.size * leaf.dtype.itemsize
        header[name] = {
            "dtype": SAFETENSORS_TYPES[leaf.dtype.name],
            "shape": list(leaf.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load(
    directory: Path | str, kind: str | None = None, sizes: Any = None, *, dtype: str | None = None
) -> nnx.Module:
    """Read a model folder, or the one of a finished stage of a workdir.

    Args:
      directory: the folder.
      kind: the kind it must be, if any.
      sizes: the sizes it must have, if any, but for those of `FREE`, which are the reader's choice.
      dtype: what to compute in, such as "bfloat16"; as in the folder by default.

    Raises:
      UserError: as `read`, or not what is wanted.
    """
    directory = model_folder(Path(directory))
    found, config, arrays = read(directory)
    if kind not in (None, found):
        raise UserError(f"{directory} holds a {found}, where a {kind} is wanted")
    if dtype is not None:
        config = _computing_in(dtype, directory, config)
    if sizes is None:
        wanted = own_template(directory, found, config)
    else:
        _check_sizes(directory, config, sizes)
        wanted = template(found, sizes)
    return fill(wanted, arrays, str(directory / "weights.safetensors"))


def _computing_in(dtype: str, directory: Path, config: Any) -> Any:
    known = DTYPES if hasattr(config, "dtype") else ()
    if dtype not in known:
        can = " or ".join(known) or "float32"
        raise UserError(f"{directory}: dtype {dtype!r}; it computes in {can}")
    return dataclasses.replace(config, dtype=dtype)


def read(directory: Path | str) -> tuple[str, Any, dict[str, np.ndarray]]:
    """Kind, config and arrays [...] by name of a model folder.

    Raises:
      UserError: not there, damaged, or not what its config says; the file is named.
    """
    directory = Path(directory)
    about = _read_about(directory)
    file = directory / "weights.safetensors"
    try:
        arrays = _read_arrays(file)
    except FileNotFoundError:
        raise UserError(f"{file} is missing; move {directory} aside and make it again") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(file, error) from None
    named = progress.bar(arrays.items(), "check", len(arrays))
    if digest({name: array_digest(array) for name, array in named}) != about["sha256"]:
        raise _damaged(file, "its digest is not that of config.json")
    return about["kind"], _sizes(directory, about), arrays


def read_kind(directory: Path | str) -> str:
    """The kind of the model in a folder, of `MODELS`; its weights unread.

    Raises:
      UserError: not there, or damaged.
    """
    return _read_about(model_folder(Path(directory)))["kind"]


def read_sizes(directory: Path) -> Any:
    """The config of the model in a folder, its weights unread.

    Raises:
      UserError: not there, or damaged.
    """
    directory = model_folder(directory)
    return _sizes(directory, _read_about(directory))


def _sizes(directory: Path, about: dict[str, Any]) -> Any:
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()}
    try:
        return MODELS[about["kind"]].Config(**sizes)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _damaged(directory / "config.json", error) from None


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Opened once for each array: what was read of an open file counts as memory of its own."""
    with safetensors.safe_open(file, "numpy") as opened:
        names = list(opened.keys())
    arrays = {}
    for name in names:
        with safetensors.safe_open(file, "numpy") as opened:
            arrays[name] = opened.get_tensor(name)
    return arrays


def template(kind: str, config: Any) -> nnx.Module:
    """A model of a kind whose leaves are shapes and types only; takes no memory."""
    return jax.eval_shape(lambda: MODELS[kind](config, rngs=nnx.Rngs(0)))


def own_template(directory: Path, kind: str, config: Any) -> nnx.Module:
    """The template of what `read` found in a folder.

    Raises:
      UserError: no model has such sizes.
    """
    try:
        return template(kind, config)
    except Exception as error:  # a size of another type fails wherever it is used first
        raise _damaged(directory / "config.json", error) from None


def model_folder(directory: Path) -> Path:
    """The folder itself, or the one in the folder of a finished stage."""
    stage = directory / "model"
    return stage if stage.exists() else directory


def _check_sizes(directory: Path, there: Any, wanted: Any) -> None:
    there, wanted = dataclasses.asdict(there), dataclasses.asdict(wanted)
    different = [
        f"{key} {there[key]!r}, not {wanted[key]!r}"
        for key in wanted if key not in FREE and there[key] != wanted[key]
    ]
    if different:
        raise UserError(f"{directory} is of other sizes than the config: {', '.join(different)}")


def fill(
    template: Any,
    arrays: Mapping[str, Any],
    source: str,
    put: Callable[[Any], jax.Array] = sharding.replicate,
) -> Any:
    """Put arrays into the leaves of a template of the same names, shapes and types.

    Args:
      template: pytree of shapes and types.
      arrays: by name.
      source: where they come from, for messages.
      put: places one on the devices; whole on each by default.

    Raises:
      UserError: anything missing, left over, or of another shape or type; all are named.
    """
    check(template, arrays, source)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
    return jax.tree.unflatten(
        treedef, [put(arrays[trees.path_name(path)]) for path, _ in leaves]
    )


def check(template: Any, arrays: Mapping[str, Any], source: str) -> None:
    """Raise UserError as `fill`."""
    leaves = jax.tree_util.tree_flatten_with_path(template)[0]
    names = [trees.path_name(path) for path, _ in leaves]
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


def _read_about(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    try:
        about = json.loads(file.read_text())
        if isinstance(about, dict) and not {"kind", "config"} & about.keys():
            raise UserError(_no_model(directory))
        if about["kind"] not in MODELS or not isinstance(about["config"], dict):
            raise ValueError(f"unknown kind {about['kind']!r}")
        # Sizes such as the number of heads show in no array: nothing else would tell others.
        wanted = about.pop("config_sha256", None)
        unknown = about.keys() - {"kind", "config", "sha256"}
        if wanted is None and not unknown:
            raise UserError(
                f"{file} has no config_sha256, so that nothing tells whether its sizes are right; "
                f"move {directory} aside and make it again, by its stage or the converter"
            )
        if unknown or wanted != files.content_digest(about):
            raise ValueError("it does not have its digest")
        return {"sha256": about["sha256"], **about}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} is not a model folder: {file} is missing; {_GIVE}"
        ) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(file, error) from None


def _no_model(directory: Path) -> str:
    """What to say of a folder whose config.json is a run's."""
    if (directory / "checkpoints").is_dir():
        again = REPAIR_HINT.format(directory, directory.name)
        return f"{directory / 'model'} is missing; put back what was there, or {again}"
    return (
        f"{directory} is not a model folder: {directory / 'config.json'} has no key kind; "
        f"{_GIVE}"
    )


def saved_digest(directory: Path) -> str:
    """The digest that a model folder was written with."""
    return _read_about(model_folder(directory))["sha256"]
