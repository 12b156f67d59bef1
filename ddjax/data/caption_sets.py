"""Captions of a TensorFlow data set (TFDS), read by number: tfds:coco_captions."""

import functools
from typing import Any

import numpy as np

from ddjax.config.schema import TFDS, DataSection
from ddjax.data.caption_files import CaptionList, where, whole
from ddjax.runtime.errors import UserError


def is_named(captions: str) -> bool:
    """Whether `config.data.captions` names a data set, not a file."""
    return captions.startswith(TFDS)


class CaptionSet(CaptionList):
    """A field of the examples of a split; of several texts in it, the first.

    Args:
      section: `captions` names the set, `captions_split` the split, `captions_field` the field,
        "captions/text" for one within another; it lies, or is downloaded, in `directory`.

    Raises:
      UserError: it is not there and cannot be made, or has no such split or field of texts.
    """

    def __init__(self, section: DataSection) -> None:
        name, split = section.captions.removeprefix(TFDS), section.captions_split
        self._where = where(section.captions)
        self._field = (section.captions_field or "caption").split("/")
        builder = _builder(name, section.directory, self._where)
        if split not in builder.info.splits:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"config.data.captions_split: got {split}, must be one of {known}, of {name}"
            )
        self._examples = _examples(builder, split, self._where)
        _ = self[0]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> str:
        found = self._examples[int(number)]
        for key in self._field:
            if not isinstance(found, dict) or key not in found:
                there = ", ".join(found) if isinstance(found, dict) else "no fields"
                raise UserError(
                    f"config.data.captions_field: got {'/'.join(self._field)}, but there is no "
                    f"{key}; there is {there}"
                )
            found = found[key]
        if isinstance(found, list | np.ndarray) and np.ndim(found):
            found = found[0] if len(found) else ""
        if not isinstance(found, str | bytes):
            raise UserError(
                f"config.data.captions_field: {'/'.join(self._field)} is "
                f"{type(found).__name__}, must be a text"
            )
        return whole(found.decode("utf-8", "replace") if isinstance(found, bytes) else found)


def identity(section: DataSection) -> str:
    """What tells the captions of one set from those of another; raises as `CaptionSet`."""
    name = section.captions.removeprefix(TFDS)
    info = _builder(name, section.directory, where(section.captions)).info
    split = section.captions_split
    found = info.splits.get(split)
    sizes = (found.shard_lengths, int(found.num_bytes)) if found else ()
    return f"{TFDS}{info.full_name} {split} {sizes}"


@functools.cache
def _builder(name: str, directory: str, where: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        # The one format that is read by number.
        builder = tfds.builder(name, data_dir=directory or None, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # whatever a data set's own code raises
        raise UserError(
            f"{where} could not be had from TFDS ({type(error).__name__}: {_first_line(error)}); "
            "give the folder where it lies: --config.data.directory=DIR"
        ) from None
    return builder


def _examples(builder: Any, split: str, where: str) -> Any:
    import tensorflow_datasets as tfds

    unread = {
        name: tfds.decode.SkipDecoding() for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
        return builder.as_data_source(split=split, decoders=unread or None)
    except Exception as error:
        raise UserError(
            f"{where} cannot be read by number ({_first_line(error)}); prepare it with "
            "file_format=array_record"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
