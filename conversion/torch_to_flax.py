r"""Converter of published PyTorch checkpoints into model folders, and back.

    python conversion/torch_to_flax.py --model=llamagen --checkpoint=c2i_B_256.pt
    python conversion/torch_to_flax.py --model=var --checkpoint=var_d16.pth --tokenizer=vae.pth
    python conversion/torch_to_flax.py --inverse --checkpoint=conversion/weights/c2i_B_256
    python conversion/torch_to_flax.py --model=lpips --checkpoint=vgg16-397923af.pth \
        --linear=vgg.pth
    python conversion/torch_to_flax.py --model=t5 --checkpoint=flan-t5-xl/
    python conversion/torch_to_flax.py --model=clip --checkpoint=ViT-B-32.pt

Sizes are read from the checkpoint. Weights become float32, which holds bfloat16 and float16
exactly; the way back writes float32.
"""

import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when it is run as a script

try:
    import torch
except ModuleNotFoundError:
    sys.exit("error: the converter needs PyTorch, which is missing; pip install -e '.[convert]'")

import jax
import numpy as np
from absl import flags

from conversion import (
    clip,
    follow,
    inception,
    kinds,
    llamagen,
    llamagen_vq,
    lpips,
    t5,
    var,
    var_vq,
)
from conversion.read import Tensors, read, shards
from conversion.tables import Shapes, Table
from ddjax import cli
from ddjax.runtime import trees
from ddjax.runtime.errors import UserError
from ddjax.storage import files, model_folder

TABLES = {
    table.kind: table
    for table in (
        llamagen.TEACHER, llamagen.STUDENT, llamagen_vq.TOKENIZER,
        var.TEACHER, var.STUDENT, var_vq.TOKENIZER,
        lpips.LPIPS, inception.INCEPTION, t5.ENCODER, clip.CLIP,
    )
}


# The largest sizes that a user may say, far above any published: a grid of 256 is 4,096 pixels.
# Larger ones would fill the memory before anything could tell that they do not fit.
_MOST = {"grid": 256, "scales": 256, "code_dim": 4096}


class _Integers(flags.ListParser):
    """1,2,3."""

    def parse(self, argument: str) -> tuple[int, ...]:
        return tuple(int(part) for part in super().parse(argument))


_MODEL = flags.DEFINE_enum("model", None, list(TABLES), "What the checkpoint is")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The .pt, .pth, .bin or .safetensors file, or a folder of parts with their "
    "index; with --inverse a model folder, or the folder of a stage"
)
_LINEAR = flags.DEFINE_string("linear", None, "With --model=lpips: the weights of its distances")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Must not exist; by default conversion/weights/ and the checkpoint's name"
)
_EMA = flags.DEFINE_bool(
    "ema", None, "Averaged weights or plain ones; by default the averaged where there are any"
)
_INVERSE = flags.DEFINE_bool("inverse", False, "From a model folder to PyTorch")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "With --model=var: the tokenizer's checkpoint, whose quantiser VAR reads "
    f"by; {var.TOKENIZER_FILE} beside the teacher's by default"
)
_SIZES = {
    "num_heads": flags.DEFINE_integer(
        "num_heads", None, "Heads; by default as published for the width", lower_bound=1
    ),
    "grid": flags.DEFINE_integer(
        "grid", None, "Tokens a side; by default those of 256 pixels", lower_bound=1
    ),
    "code_dim": flags.DEFINE_integer(
        "code_dim", None, "Width of a code of the teacher's tokenizer; 8 by default", lower_bound=1
    ),
    "scales": flags.DEFINE(
        _Integers(), "scales", None, "Tokens a side of VAR's scales, 1,2,3; by default those of "
        "256 pixels", serializer=flags.CsvListSerializer(",")
    ),
}


def convert(
    model: str,
    checkpoints: Sequence[Path],
    output: Path,
    averaged: bool | None,
    given: Mapping[str, Any],
) -> str:
    """Write the model folder of a checkpoint; returns one line about it.

    Args:
      model: of `TABLES`.
      checkpoints: the files, whose tensors are taken together; see `conversion.read.read`.
      output: the folder, which must not exist.
      averaged: whether to take averaged weights.
      given: sizes that the user set.

    Raises:
      UserError: with what does not fit, and what would.
    """
    _refuse_existing(output)
    table, source = TABLES[model], " and ".join(map(str, checkpoints))
    parts = [read(file, averaged) for file in checkpoints]
    tensors = _renamed(_together(parts, source), table, source)
    _refuse_claims(tensors, table, sum(file.stat().st_size for file in checkpoints), source)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        config, leaves = _target(table, shapes, given)
        moves = follow.plan(shapes, table, _shapes(leaves))
    except UserError as error:
        like = kinds.likeliest(list(parts[0]), TABLES.values())
        hint = f"; it looks like --model={like}" if like not in (None, model) else ""
        raise UserError(f"{source} does not fit --model={model}{hint}: {error}") from None
    arrays = follow.fill(moves, lambda name: _array(name, tensors[name]), _shapes(leaves))
    try:
        model_folder.write(output, table.kind, config, leaves, arrays)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    count = sum(leaf.size for leaf in leaves.values())
    return f"{output}: {count / 1e6:.1f} M parameters, {config}"


def restore(folder: Path, output: Path) -> str:
    """Write a PyTorch checkpoint, as published, of a model folder; returns one line about it.

    Args:
      folder: of a model, or of the stage of a workdir that trained one.
      output: the file, which must not exist.

    Raises:
      UserError: the folder is damaged, or its kind has no PyTorch form; or `output` is there.
    """
    _refuse_existing(output)
    folder = model_folder.model_folder(folder)
    kind, config, arrays = model_folder.read(folder)
    table = TABLES.get(kind)
    if table is None or not table.invertible:
        known = ", ".join(name for name, table in TABLES.items() if table.invertible)
        raise UserError(f"{folder} is a {kind}, which has no way back to PyTorch; {known} have")
    model_folder.check(model_folder.own_template(folder, kind, config), arrays, str(folder))
    found = follow.invert(arrays, table) | table.buffers(config)
    found = {k: v for k, v in found.items() if not re.fullmatch(table.borrowed, k)}
    tree = _nest({name: torch.from_numpy(array) for name, array in found.items()}, table.places)
    with files.atomic(output) as temporary, temporary.open("wb") as file:
        torch.save(tree, file)
    return f"{output}: {len(found)} tensors"


def _together(parts: Sequence[Tensors], source: str) -> Tensors:
    tensors: dict[str, torch.Tensor] = {}
    for part in parts:
        twice = tensors.keys() & part.keys()
        if twice:
            raise UserError(f"{source}: both hold {min(twice)}; give files that belong together")
        tensors |= part
    return tensors


def _renamed(tensors: Tensors, table: Table, source: str) -> Tensors:
    """The tensors, each under one name where files use two."""
    found = dict(tensors)
    for alias, name in table.aliases.items():
        other = found.pop(alias, None)
        if other is not None and not torch.equal(found.setdefault(name, other), other):
            raise UserError(f"{source}: {alias} and {name} differ, must be equal; get it again")
    return found


def _refuse_claims(tensors: Tensors, table: Table, there: int, source: str) -> None:
    """Many names of the same numbers would fill the memory from a small file.

    What is published may give an embedding to a decoder, too, which is left out.
    """
    claimed = sum(
        tensor.numel() * tensor.itemsize for name, tensor in tensors.items()
        if not any(re.fullmatch(pattern, name) for pattern in table.ignored)
    )
    if claimed > there:
        raise UserError(
            f"{source}: its tensors claim {claimed} bytes, and the file has {there}; get another "
            "file"
        )


def _target(
    table: Table, shapes: Shapes, given: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The config of our model, and its leaves: shapes and types by name."""
    unused = given.keys() - inspect.signature(table.config).parameters.keys()
    if unused:
        raise UserError(f"--{min(unused)} says nothing about this model; leave it out")
    for name, most in _MOST.items():
        numbers = np.atleast_1d(given.get(name, 1))
        if not numbers.size or min(numbers) < 1 or max(numbers) > most:
            said = ",".join(map(str, numbers))
            raise UserError(f"--{name}={said}: give whole numbers in 1..{most}, the model's own")
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise UserError(f"{empty[0]} is {list(shapes[empty[0]])}, which holds nothing")
    try:
        config = table.config(shapes, **given)
    except ValueError as error:
        raise UserError(str(error)) from None
    return config, trees.flatten(model_folder.template(table.kind, config))


def _shapes(leaves: Mapping[str, Any]) -> Shapes:
    return {name: leaf.shape for name, leaf in leaves.items()}


def _array(name: str, tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(f"{name} is of {tensor.dtype}; weights are float32, bfloat16 or float16")
    return tensor.float().numpy(force=True)


def _nest(tensors: Tensors, places: tuple[tuple[str, ...], ...]) -> Any:
    tree: dict[str, Any] = {}
    for place in places:
        if not place:
            return tensors
        node = tree
        for key in place[:-1]:
            node = node.setdefault(key, {})
        node[place[-1]] = tensors
    return tree


def _refuse_existing(output: Path) -> None:
    try:
        there = output.exists() or output.is_symlink()
    except (OSError, ValueError) as error:
        raise UserError(f"{output} cannot be written ({error})") from None
    if there:
        raise UserError(f"{output} is there already; remove it, or give another --output")


def main() -> None:
    """Do what the flags say and print one line."""
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be in use, and is not needed
    checkpoint = Path(_CHECKPOINT.value)
    if not checkpoint.name:
        raise UserError(f"--checkpoint={_CHECKPOINT.value} names no file")
    here = Path(__file__).resolve().parent / "weights"
    if _INVERSE.value:
        print(restore(checkpoint, Path(_OUTPUT.value or here / f"{checkpoint.name}.pt")))
        return
    if _MODEL.value is None:
        raise UserError(f"--model is missing; one of {', '.join(TABLES)}")
    for flag, of in ((_LINEAR, "lpips"), (_TOKENIZER, "var")):
        if flag.value and _MODEL.value != of:
            raise UserError(f"--{flag.name} is for --model={of} alone; leave it out")
    given = {name: flag.value for name, flag in _SIZES.items() if flag.value is not None}
    output = Path(_OUTPUT.value or here / checkpoint.stem)
    others = [Path(flag.value) for flag in (_LINEAR, _TOKENIZER) if flag.value]
    beside = checkpoint.with_name(var.TOKENIZER_FILE)
    if _MODEL.value == "var" and not _TOKENIZER.value and os.path.isfile(beside):
        others.append(beside)
    print(convert(_MODEL.value, [*shards(checkpoint), *others], output, _EMA.value, given))


if __name__ == "__main__":
    flags.mark_flag_as_required("checkpoint")
    cli.run(main)
