"""Checkpoint reader for untrusted files: no code in them is run, and what is wrong is named.

PyTorch files are read with `weights_only=True`, which builds tensors and plain containers only,
and mapped into memory, so that only the weights that are used take any. Before that their own
checksums are compared; files from before the zip format (PyTorch 1.6) have none, and cannot be
mapped. Of TorchScript archives the tensors are read (`conversion.torchscript`).
"""

import argparse
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from conversion import checksums, torchscript
from ddjax.runtime.errors import UserError

Tensors = Mapping[str, torch.Tensor]

# The dictionaries around the weights, outermost first: of averaged weights, and of plain ones.
_AVERAGED = (("ema",), ("trainer", "ema_parameters"))
_PLAIN = (("model",), ("module",), ("state_dict",), ("trainer", "var_wo_ddp"), ())


def read(file: Path, averaged: bool | None = None) -> Tensors:
    """The weights in a checkpoint, .safetensors or PyTorch's.

    Args:
      file: to read.
      averaged: True for the averaged weights (EMA), False for the plain ones; None for the averaged
        where there are any.

    Raises:
      UserError: the file is not there, is damaged, holds code, or holds no such weights.
    """
    if not os.path.isfile(file):  # unlike Path.is_file, it never raises
        raise UserError(f"{file} is not a file")
    if file.suffix == ".safetensors":
        if averaged:
            raise UserError(f"{file} holds no averaged weights; leave --ema out")
        return _checked(_load_safetensors(file), file)
    tree = load_tree(file)
    places = {None: _AVERAGED + _PLAIN, True: _AVERAGED, False: _PLAIN}[averaged]
    for place in places:
        found = _weights_at(tree, place)
        if found:
            return _checked(found, file)
    wanted = {None: "weights", True: "averaged weights", False: "plain weights"}[averaged]
    raise UserError(f"{file} holds no {wanted}; looked at {', '.join(map(_shown, places))}")


# What a folder of a model from the hub may hold, the safer format first.
_WHOLE = ("model.safetensors", "pytorch_model.bin")


def shards(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint: itself, or those of a folder, whole or in parts with an index.

    Raises:
      UserError: the folder holds no checkpoint, or its index names what is not there.
    """
    if not os.path.isdir(checkpoint):
        return [checkpoint]
    for name in _WHOLE:
        if os.path.isfile(checkpoint / name):
            return [checkpoint / name]
        index = checkpoint / f"{name}.index.json"
        if os.path.isfile(index):
            return _indexed(index)
    wanted = " or ".join(f"{name}, or {name}.index.json with its parts" for name in _WHOLE)
    raise UserError(f"{checkpoint} holds no checkpoint; needs {wanted}")


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values())))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is no index of a checkpoint ({error}); get it again") from None
    for name in names:
        if Path(name).name != name or not os.path.isfile(index.parent / name):
            raise UserError(f"{index} names {name}, which is not beside it; get all parts")
    return [index.parent / name for name in names]


def load_tree(file: Path) -> Any:
    """Whatever a file of PyTorch's holds, of tensors and plain containers.

    Raises:
      UserError: as `read`.
    """
    try:
        zipped = checksums.is_zip(file)
        if zipped and torchscript.is_archive(file):
            return torchscript.tensors(file)
        if zipped:
            checksums.verify(file)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    except Exception as error:  # a damaged pickle can fail in any way
        message = str(error)
        code = re.search(r"GLOBAL (\S+)", message)
        if isinstance(error, pickle.UnpicklingError) and code:
            raise UserError(
                f"{file} holds code ({code[1]}) beside weights and is not read; get a file of "
                "weights alone"
            ) from None
        # What PyTorch says of files that it cannot read often advises to run what is in them.
        silent = isinstance(error, pickle.UnpicklingError | KeyError) or "weights_only" in message
        why = "" if silent else f" ({_first_line(message)})"
        raise UserError(
            f"{file} is damaged, or is no checkpoint of PyTorch{why}; get it again"
        ) from None


def _load_safetensors(file: Path) -> Tensors:
    try:
        return safetensors.torch.load_file(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{file} is damaged, or is no safetensors file ({_first_line(str(error))}); "
            "get it again"
        ) from None


def _first_line(message: str) -> str:
    return (message.splitlines() or ["empty"])[0]


def _weights_at(tree: Any, place: tuple[str, ...]) -> Tensors | None:
    """The tensors of a place, if there is a dictionary of tensors and of nothing else."""
    for key in place:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    if isinstance(tree, Mapping) and all(isinstance(v, torch.Tensor) for v in tree.values()):
        return tree
    return None


def _shown(place: tuple[str, ...]) -> str:
    return "/".join(place) or "the top"


def _is_plain(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return False
    # An expanded tensor claims more numbers than the file has.
    return tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def _checked(tensors: Tensors, file: Path) -> Tensors:
    strange = [
        name for name, tensor in tensors.items()
        if not isinstance(name, str) or not _is_plain(tensor)
    ]
    if strange:
        raise UserError(f"{file}: {strange[0]} is no plain tensor under a name; get another file")
    return tensors
