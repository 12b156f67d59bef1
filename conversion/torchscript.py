"""TorchScript archives: the tensors of their modules, of which nothing is run or called.

An archive is a zip: code, `data.pkl` with a tree of modules, and a record for the numbers of each
tensor. The pickle is not unpickled but read, operation by operation: a global is its name, and a
call a note of what would be called with what. Names of tensors are those of `state_dict`.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddjax.runtime.errors import UserError

# Bytes of a pickle: ten times those of published models, and too few to fill the memory.
_MOST = 2**22

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TENSOR = "torch._utils _rebuild_tensor_v2"
_MODULE = "__torch__"
_TYPES = {
    "torch FloatStorage": torch.float32, "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16, "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64, "torch IntStorage": torch.int32,
    "torch BoolStorage": torch.bool,
}


class Global(NamedTuple):
    """A function or class by name: its module, a space, its own name."""

    name: str


class Call(NamedTuple):
    """What a pickle would call.

    Attributes:
      name: of the function or class.
      arguments: for it.
      state: what the result would be filled with, by name.
    """

    name: str
    arguments: tuple[Any, ...]
    state: dict[str, Any]


def is_archive(file: Path) -> bool:
    """Whether a zip is one of TorchScript, as PyTorch tells it."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors by name: parameters, buffers, and other attributes.

    Raises:
      UserError: the archive is damaged, or holds what no module of plain tensors does.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            reader = _Reader(archive)
            return {name: reader.tensor(call) for name, call in _named(reader.module(), "", set())}
    except Exception as error:  # damage shows in any way
        why = str(error) or type(error).__name__
        raise UserError(f"{file} is a damaged TorchScript archive ({why}); get it again") from None


class _Reader:
    """The records of an archive; each is compared with its checksum when it is read."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        self._numbers: dict[str, torch.Tensor] = {}

    def module(self) -> Call:
        found = operations(self._read("data.pkl", _MOST))
        if not found.name.startswith(_MODULE):
            raise ValueError(f"{found.name} is no module")
        return found

    def tensor(self, call: Call) -> torch.Tensor:
        """A view of numbers that may be shared; PyTorch checks that it is within them."""
        (_, kind, key, _, count), offset, size, stride, *_ = call.arguments
        if key not in self._numbers:
            dtype = _TYPES[kind.name]
            content = self._read(f"data/{key}", count * dtype.itemsize)
            self._numbers[key] = torch.frombuffer(bytearray(content), dtype=dtype, count=count)
        return self._numbers[key].as_strided(size, stride, offset)

    def _read(self, name: str, most: int) -> bytes:
        record = self._records[name]
        if record.file_size > most or record.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"record {name} is larger than {most} bytes, or compressed")
        return self._archive.read(record)


def _named(module: Call, prefix: str, seen: set[int]) -> Iterator[tuple[str, Call]]:
    """The tensors below a module."""
    if id(module.state) in seen:  # it could stand there a million times
        raise ValueError(f"{prefix} is there twice")
    seen.add(id(module.state))
    for name, value in module.state.items():
        if isinstance(value, Call) and value.name == _TENSOR:
            yield prefix + name, value
        elif isinstance(value, Call) and value.name.startswith(_MODULE):
            yield from _named(value, f"{prefix}{name}.", seen)


def operations(pickle: bytes) -> Any:
    """What a pickle describes, of plain containers, texts, numbers and `Call`s.

    Raises:
      Exception: of any kind where it is no pickle, or one that TorchScript does not write.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memory: dict[int, Any] = {}

    def marked() -> list[Any]:
        start = marks.pop()
        stack[start:], found = [], stack[start:]
        return found

    for operation, value, _ in pickletools.genops(pickle):
        match operation.name:
            case "PROTO":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[operation.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(value)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"TUPLE": (), "LIST": [], "DICT": {}}[operation.name[6:]])
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = len(stack) - int(operation.name[5:])
                stack[start:] = [tuple(stack[start:])]
            case "BINPUT" | "LONG_BINPUT":
                memory[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memory[value])
            case "GLOBAL":
                stack.append(Global(value))
            case "BINPERSID":
                pass  # what stands for a record's numbers stays as it is
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack[-1] = Call(stack[-1].name, arguments, {})
            case "SETITEMS":
                found = marked()
                stack[-1].update(zip(found[::2], found[1::2], strict=True))
            case "APPENDS":
                found = marked()
                stack[-1].extend(found)
            case "BUILD":
                state = stack.pop()
                stack[-1].state.update(state)
            case other:
                raise ValueError(f"the operation {other}")
    raise ValueError("it ends early")
