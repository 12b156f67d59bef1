"""Checksums of PyTorch files, zips with a record for each tensor; PyTorch does not compare them."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from ddjax.runtime import progress
from ddjax.runtime.errors import UserError

_MAGIC = b"PK\x03\x04"
_CHUNK = 2**20


def is_zip(file: Path) -> bool:
    """Whether PyTorch takes a file for a zip: by its first bytes, where `zipfile` looks at the end.

    Raises:
      OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def verify(file: Path) -> None:
    """Compare every record of a zip with its CRC-32, a chunk at a time.

    Raises:
      UserError: names the first record that is not as it was saved.
      Exception: whatever `zipfile` raises where it finds no list of records.
    """
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        _refuse_ambiguous(file, records)
        # PyTorch can be told to save without checksums, and then writes 0 for all.
        if any(record.CRC for record in records):
            chunks = sum(-(-record.file_size // _CHUNK) for record in records)
            for _ in progress.bar(_read(file, archive, records), "check", chunks):
                pass


def _refuse_ambiguous(file: Path, records: list[zipfile.ZipInfo]) -> None:
    """What is whole, but not what PyTorch would read: it maps records as if they were stored."""
    if records and min(record.header_offset for record in records) > 0:
        raise UserError(f"{file} holds something before its zip; get the file again")
    names = set()
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise _refusal(file, record, "is compressed, which PyTorch does not undo")
        name = record.filename.lower()  # PyTorch finds records whatever their case
        if name in names:
            raise _refusal(file, record, "is there twice")
        names.add(name)


def _read(
    file: Path, archive: zipfile.ZipFile, records: list[zipfile.ZipInfo]
) -> Iterator[bytes]:
    """All chunks; at the end of a record `zipfile` compares the CRC-32."""
    for record in records:
        try:
            with archive.open(record) as opened:
                while chunk := opened.read(_CHUNK):
                    yield chunk
        except Exception as error:  # damage shows in any way
            why = str(error) or type(error).__name__
            raise _refusal(file, record, f"is damaged ({why})") from None


def _refusal(file: Path, record: zipfile.ZipInfo, why: str) -> UserError:
    return UserError(f"{file}: its record {record.filename!r} {why}; get the file again")
