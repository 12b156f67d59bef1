"""Caption files: text, JSON lines or Parquet, read by number without holding them all."""

import abc
import codecs
import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ddjax.runtime.errors import UserError

KINDS = (".txt", ".jsonl", ".parquet", "")


class CaptionList(abc.ABC):
    """Captions by number."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abc.abstractmethod
    def __getitem__(self, number: int) -> str:
        """One of them, as it stands in the file."""


class Lines(CaptionList):
    """A UTF-8 file with a caption a line; memory holds where each line starts, 8 bytes.

    Args:
      path: of the file.
      field: of the JSON object in each line; "" where the line is the caption.

    Raises:
      UserError: it is missing, empty, not UTF-8, or a line is not such an object.
    """

    def __init__(self, path: Path, field: str = "") -> None:
        self._path, self._field = path, field
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise UserError(f"{_where(path)} is empty; give a caption a line") from None
        except OSError as error:
            raise UserError(f"{_where(path)}: {error.strerror}") from None
        self._starts = np.fromiter(self._checked(), np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> str:
        start = int(self._starts[number])
        end = self._bytes.find(b"\n", start)
        return self._caption(self._bytes[start : end if end >= 0 else None], number)

    def _checked(self) -> Iterator[int]:
        start, size, number = 0, len(self._bytes), 0
        if self._bytes[:3] == codecs.BOM_UTF8:
            start = 3
        while start < size:
            end = self._bytes.find(b"\n", start)
            end = size if end < 0 else end
            self._caption(self._bytes[start:end], number)
            yield start
            start, number = end + 1, number + 1

    def _caption(self, line: bytes, number: int) -> str:
        where = f"{_where(self._path)}, line {number + 1}"
        try:
            text = line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is not UTF-8 ({error.reason}); save it as UTF-8") from None
        if not self._field:
            return text
        try:
            found = json.loads(text)[self._field]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{where} is no JSON object with the key {self._field!r}; name the key of the "
                "captions: --config.data.captions_field=KEY"
            ) from None
        if not isinstance(found, str):
            raise UserError(f"{where}: {self._field} is {type(found).__name__}, must be a string")
        return found.encode("utf-8", "replace").decode()  # JSON can hold half a character


class Column(CaptionList):
    """A column of a Parquet file, held as Arrow has it: its bytes, and 8 a caption.

    Args:
      path: of the file.
      field: name of the column.

    Raises:
      UserError: pyarrow is not installed, or the file is missing, damaged, empty or has no such
        column of strings.
    """

    def __init__(self, path: Path, field: str) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise UserError(
                f"{_where(path)}: Parquet needs pyarrow, which is not installed; pip install "
                "pyarrow, or give a text file with a caption a line"
            ) from None
        try:
            table = parquet.read_table(path, columns=[field])
            column, kinds = table.column(0), pyarrow.types
            if not (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
                raise ValueError(f"it is of {column.type}")
            self._column = column.cast(pyarrow.large_string()).combine_chunks()
        except (OSError, ValueError, IndexError, pyarrow.ArrowException) as error:
            why = str(error).partition("\n")[0]
            raise UserError(f"{_where(path)}: no captions in column {field!r} ({why})") from None
        if not len(self._column) or self._column.null_count:
            raise UserError(
                f"{_where(path)}: {len(self._column)} captions in column {field!r}, "
                f"{self._column.null_count} of them null; give a caption in each row"
            )

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, number: int) -> str:
        return self._column[int(number)].as_py()


class Chosen(CaptionList):
    """Captions of a list in another order.

    Args:
      captions: the list.
      order: their numbers.
    """

    def __init__(self, captions: CaptionList, order: np.ndarray) -> None:
        self._captions, self._order = captions, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> str:
        return self._captions[int(self._order[number])]


def load(path: Path, field: str = "", shuffle: int = -1, distinct: bool = False) -> CaptionList:
    """The captions of a file, by its ending.

    Args:
      path: .jsonl, .parquet, or .txt with a caption a line; blank lines are empty captions.
      field: of a .jsonl or .parquet file: the key of the captions; "caption" by default.
      shuffle: seed of their order; -1 for that of the file.
      distinct: only the first of equal captions.

    Raises:
      UserError: the file is not what its ending says.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        known = ", ".join(filter(None, KINDS))
        raise UserError(f"{_where(path)}: must end in {known}, or .npz for features")
    if kind == ".parquet":
        captions: CaptionList = Column(path, field or "caption")
    else:
        captions = Lines(path, (field or "caption") if kind == ".jsonl" else "")
    order = np.arange(len(captions), dtype=np.int64)
    if distinct:
        hashes = np.fromiter((_hash(text) for text in _each(captions)), np.uint64, len(captions))
        order = np.sort(np.unique(hashes, return_index=True)[1])
    if shuffle >= 0:
        order = np.random.default_rng(shuffle).permutation(order)
    return Chosen(captions, order) if distinct or shuffle >= 0 else captions


def _each(captions: CaptionList) -> Iterator[str]:
    return (captions[i] for i in range(len(captions)))


def _hash(text: str) -> int:
    """64 bits: among 5 million captions two different ones share a hash once in a million lists."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _where(path: Path) -> str:
    return f"config.data.captions: {path}"
