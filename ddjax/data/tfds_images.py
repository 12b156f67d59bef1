"""TensorFlow Datasets (TFDS): any of its image sets by name, read by number."""

import hashlib
from typing import Any

import numpy as np

from ddjax.config.schema import TFDS, DataSection
from ddjax.data.image_files import Pixels
from ddjax.runtime.errors import UserError


class TfdsImages:
    """Images of a TFDS set; a `ddjax.data.prepared.RawImages`.

    Its first feature that is an image is read, and its first that is a class label; without one all
    labels are 0. TFDS downloads the set and keeps it as array_record, which is read by number.

    Args:
      config: its name is "tfds:NAME" or "tfds:NAME@SPLIT"; its directory is TFDS' own.

    Raises:
      UserError: there is no such set or split, it cannot be downloaded or read, has no images, or
        other classes than the config's.
    """

    def __init__(self, config: DataSection) -> None:
        import tensorflow_datasets as tfds  # slow to import, and only this needs it

        self.name = config.name
        name, _, split = config.name.removeprefix(TFDS).partition("@")
        try:
            builder = tfds.builder(
                name, data_dir=config.directory or None, file_format="array_record"
            )
            builder.download_and_prepare()
            self._rows = builder.as_data_source(split or "train")
        except Exception as error:
            why = next(iter(str(error).strip().splitlines()), "")
            raise UserError(
                f"config.data.name: {self.name} could not be had from TFDS "
                f"({type(error).__name__}: {why}); name one of its image sets, such as "
                f"{TFDS}cifar10, and a split behind @ if it is not train"
            ) from error
        features = builder.info.features
        self._image = _first(features, tfds.features.Image)
        self._label = _first(features, tfds.features.ClassLabel)
        if not self._image:
            raise UserError(
                f"config.data.name: {self.name} has no images; it has {', '.join(features)}"
            )
        self.classes = features[self._label].names if self._label else [""]
        if len(self.classes) != config.num_classes:
            raise UserError(
                f"config.data.num_classes: got {config.num_classes}, must be {len(self.classes)}: "
                f"so many classes has {self.name}"
            )
        self.names = [f"{name}/{split or 'train'}/{i}" for i in range(len(self._rows))]
        about = (builder.info.full_name, str(builder.data_dir), split, len(self.names))
        self.digest = hashlib.sha256(repr(about).encode()).hexdigest()

    def read(self, number: int) -> tuple[Pixels, int]:
        """An image and its label.

        Raises:
          UserError: its record cannot be read.
        """
        try:
            row = self._rows[number]
        except Exception as error:
            raise UserError(f"{self.names[number]} cannot be read ({error})") from None
        image = np.asarray(row[self._image])
        grey = image.shape[-1] == 1
        rgb = np.repeat(image, 3, axis=-1) if grey else image[..., :3]
        return Pixels(rgb, "L" if grey else "RGB"), int(row[self._label]) if self._label else 0


def _first(features: Any, kind: type) -> str:
    return next((name for name, one in features.items() if type(one) is kind), "")
