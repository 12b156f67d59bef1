"""Captions by number, from a file or from TFDS, in an order of choice."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ddjax.config.schema import DataSection
from ddjax.data import caption_sets
from ddjax.data.caption_files import CaptionList, Column, JsonLines, Lines, Table, coco, where
from ddjax.runtime.errors import UserError

Captions = CaptionList | Sequence[str]

# How each kind of file is opened, from its path and the field of the captions.
KINDS: dict[str, Callable[[Path, str], Captions]] = {
    ".txt": lambda path, field: Lines(path),
    ".jsonl": JsonLines,
    ".tsv": Table,
    ".json": coco,
    ".parquet": Column,
    "": lambda path, field: Lines(path),
}


class Chosen(CaptionList):
    """Captions of a list in another order.

    Args:
      captions: the list.
      order: their numbers.
    """

    def __init__(self, captions: Captions, order: np.ndarray) -> None:
        self._captions, self._order = captions, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> str:
        return self._captions[int(self._order[number])]


def load(section: DataSection) -> Captions:
    """The captions that a config names; blank lines of a text file are empty captions.

    Raises:
      UserError: the file is not what its ending says, or as `caption_sets.CaptionSet`.
    """
    captions = _opened(section)
    order = np.arange(len(captions), dtype=np.int64)
    if section.captions_distinct:
        hashes = np.fromiter((_hash(text) for text in _each(captions)), np.uint64, len(captions))
        order = np.sort(np.unique(hashes, return_index=True)[1])
    if section.captions_seed >= 0:
        order = np.random.default_rng(section.captions_seed).permutation(order)
    chosen = section.captions_distinct or section.captions_seed >= 0
    return Chosen(captions, order) if chosen else captions


def _opened(section: DataSection) -> Captions:
    field = section.captions_field or "caption"
    if caption_sets.is_named(section.captions):
        return caption_sets.CaptionSet(section)
    path = Path(section.captions)
    if path.suffix.lower() not in KINDS:
        known = ", ".join(filter(None, KINDS))
        raise UserError(f"{where(path)}: must end in {known}, or .npz for features")
    return KINDS[path.suffix.lower()](path, field)


def _each(captions: Captions) -> Iterator[str]:
    return (captions[i] for i in range(len(captions)))


def _hash(text: str) -> int:
    """64 bits: among 5 million captions two different ones share a hash once in a million lists."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")
