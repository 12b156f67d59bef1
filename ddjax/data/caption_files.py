"""Caption files by number: text, JSON lines, tables, COCO's JSON; none but COCO's is held."""

import abc
import codecs
import csv
import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ddjax.runtime.errors import UserError

# Bytes of a file that are looked at together.
_CHUNK = 2**24


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

    Raises:
      UserError: it is missing, empty, or not UTF-8.
    """

    # Lines before the captions.
    head = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise UserError(f"{where(path)} is empty; give a caption a line") from None
        except OSError as error:
            raise UserError(f"{where(path)}: {error.strerror}") from None
        first = len(codecs.BOM_UTF8) if self._bytes[:3] == codecs.BOM_UTF8 else 0
        self._starts = np.concatenate([[first], *self._ends()])[:-1]
        if len(self) < 1:
            raise UserError(f"{where(path)} has no captions; give a caption a line")

    def __len__(self) -> int:
        return len(self._starts) - self.head

    def __getitem__(self, number: int) -> str:
        row = int(number) + self.head
        return self._caption(self._line(row), f"{where(self._path)}, line {row + 1}")

    def _line(self, row: int) -> str:
        start = int(self._starts[row])
        end = self._bytes.find(b"\n", start)
        return self._bytes[start : end if end >= 0 else None].decode("utf-8").rstrip("\r")

    def _caption(self, line: str, where: str) -> str:
        """What a line says; `where` is for messages."""
        del where
        return line

    def _ends(self) -> Iterator[np.ndarray]:
        """Where the line behind each starts, chunk by chunk of whole lines."""
        start, size, before = 0, len(self._bytes), 0
        while start < size:
            end = self._bytes.find(b"\n", min(start + _CHUNK, size))
            chunk = self._bytes[start : end + 1 if end >= 0 else None]
            try:
                chunk.decode("utf-8")
            except UnicodeDecodeError as error:
                line = before + chunk.count(b"\n", 0, error.start) + 1
                raise UserError(
                    f"{where(self._path)}, line {line} is not UTF-8 ({error.reason}); save it as "
                    "UTF-8"
                ) from None
            ends = start + 1 + np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
            start, before = start + len(chunk), before + len(ends)
            yield ends
        if self._bytes[-1:] != b"\n":
            yield np.array([size + 1])


class JsonLines(Lines):
    """A file with a JSON object a line.

    Args:
      path: of the file.
      field: key of the caption.

    Raises:
      UserError: as `Lines`, or a line is not such an object.
    """

    def __init__(self, path: Path, field: str) -> None:
        super().__init__(path)
        self._field = field
        for number in range(len(self)):
            _ = self[number]

    def _caption(self, line: str, where: str) -> str:
        try:
            found = json.loads(line)[self._field]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{where} is no JSON object with the key {self._field!r}; name the key of the "
                "captions: --config.data.captions_field=KEY"
            ) from None
        if not isinstance(found, str):
            raise UserError(f"{where}: {self._field} is {type(found).__name__}, must be a string")
        return whole(found)


class Table(Lines):
    """Columns with tabs between them, named by the first line, such as PartiPrompts'.

    Args:
      path: of the file.
      field: name of the column.

    Raises:
      UserError: as `Lines`, there is no such column, or a line has no cell in it or too many.
    """

    head = 1

    def __init__(self, path: Path, field: str) -> None:
        super().__init__(path)
        names = self._line(0).split("\t")
        if field not in names:
            raise UserError(
                f"{where(path)} has the columns {', '.join(names)}, not {field}; name the one of "
                "the captions: --config.data.captions_field=NAME"
            )
        self._columns, self._column = len(names), names.index(field)
        for number in range(len(self)):
            _ = self[number]

    def _caption(self, line: str, where: str) -> str:
        cells = line.split("\t")
        if not self._column < len(cells) <= self._columns:  # the last may be left out
            raise UserError(f"{where} has {len(cells)} columns, must have {self._columns}")
        cell = cells[self._column]
        # Programs put a cell with quotes in it between quotes.
        return next(csv.reader([cell]))[0] if cell[:1] == cell[-1:] == '"' != cell else cell


class Column(CaptionList):
    """A column of a Parquet file, held as Arrow has it: its bytes, and a few a caption.

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
                f"{where(path)}: Parquet needs pyarrow, which is not installed; pip install "
                "pyarrow, or give a text file with a caption a line"
            ) from None
        try:
            self._column = parquet.read_table(path, columns=[field]).column(0)
            kind, kinds = self._column.type, pyarrow.types
            if not (kinds.is_string(kind) or kinds.is_large_string(kind)):
                raise ValueError(f"it is of {kind}")
            self._column.validate(full=True)  # also that it is UTF-8
        except (OSError, ValueError, IndexError, pyarrow.ArrowException) as error:
            why = str(error).partition("\n")[0]
            raise UserError(f"{where(path)}: no captions in column {field!r} ({why})") from None
        if not len(self._column) or self._column.null_count:
            raise UserError(
                f"{where(path)}: {len(self._column)} captions in column {field!r}, "
                f"{self._column.null_count} of them null; give a caption in each row"
            )

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, number: int) -> str:
        return self._column[int(number)].as_py()


def coco(path: Path, field: str) -> Sequence[str]:
    """The captions of a captions_*.json of COCO, in the order of its "annotations".

    Args:
      path: of the file.
      field: key of the caption in each.

    Raises:
      UserError: it is missing, or something else.
    """
    try:
        found = [whole(one[field]) for one in json.loads(path.read_bytes())["annotations"]]
    except OSError as error:
        raise UserError(f"{where(path)}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = []
    if not found:
        raise UserError(
            f"{where(path)} has no \"annotations\" with a {field!r} each, as COCO's captions have; "
            "give one of its captions_*.json, or .jsonl for an object a line"
        )
    return tuple(found)


def whole(text: str) -> str:
    """A text without halves of characters, which JSON and Python can hold and no encoder reads."""
    return text.encode("utf-8", "replace").decode()


def where(path: Path | str) -> str:
    """What messages begin with."""
    return f"config.data.captions: {path}"
