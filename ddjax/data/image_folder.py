"""Image folder: files below a directory, whose sub-folders are classes."""

import hashlib
import json
from pathlib import Path

import numpy as np

from ddjax.config.schema import DataSection
from ddjax.data import image_files
from ddjax.data.image_files import Pixels
from ddjax.data.prepared import check_classes
from ddjax.runtime.errors import UserError


class ImageFolder:
    """The image files of a directory; a `ddjax.data.prepared.RawImages`.

    The first sub-folder on the way to a file is its class, and classes are numbered in the order of
    their names. Without sub-folders there are no classes: all labels are 0.

    Args:
      config: names the directory and the number of classes.

    Raises:
      UserError: there are no images, other classes than the config's, too few of one, or images
        beside the folders of classes.
    """

    def __init__(self, config: DataSection) -> None:
        self.name = config.directory
        self._directory = Path(config.directory)
        self._paths = image_files.find(self._directory)
        self.names = [path.relative_to(self._directory).as_posix() for path in self._paths]
        tops = [name.rpartition("/")[0].partition("/")[0] for name in self.names]
        self.classes = sorted(set(tops))
        self._labels = np.searchsorted(self.classes, tops)
        if len(self.classes) > 1 and not self.classes[0]:
            raise UserError(
                f"{self._paths[tops.index('')]} lies beside folders of classes, such as "
                f"{self._directory / self.classes[1]}; move it into one of them"
            )
        self._check_classes(config.num_classes)

    def _check_classes(self, wanted: int) -> None:
        if len(self.classes) != wanted:
            some = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
            has = f"has {len(self.classes)} sub-folders with images ({some}), which are classes"
            if not self.classes[0]:
                has = "has no sub-folders with images, so there are no classes"
            raise UserError(
                f"config.data.num_classes: got {wanted}, must be {len(self.classes)}: "
                f"{self._directory} {has}"
            )
        check_classes(self.name, self.classes, self._labels)

    @property
    def digest(self) -> str:
        """Of names, sizes and times of the files: another where one of them was changed."""
        found = [path.stat() for path in self._paths]
        listing = [
            [name, one.st_size, one.st_mtime_ns]
            for name, one in zip(self.names, found, strict=True)
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    def read(self, number: int) -> tuple[Pixels, int]:
        """An image and its label.

        Raises:
          UserError: see `ddjax.data.image_files.read`.
        """
        return image_files.read(self._paths[number]), int(self._labels[number])
