"""Image sets on disk, of any generator: a folder of image files, or `arr_0` of an .npz file.

They are read by number, and never as a whole.
"""

import collections
import functools
import hashlib
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np

from ddjax.data import image_files, npz
from ddjax.runtime.errors import UserError
from ddjax.storage import files


class ImageSet(Protocol):
    """A source of images, [N, H, W, channels] uint8, all of one size.

    Attributes:
      path: of the folder or file.
      shape: H, W, channels.
    """

    path: Path
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        """How many images there are."""

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """{"image": uint8 [B, H, W, channels]} of these numbers."""

    def remark(self) -> str:
        """What was done to the images that were read, or ""."""


class FolderImages:
    """The PNG, JPEG and other image files below a folder, in order of their names, as RGB.

    Raises:
      UserError: there are none, or, while they are read, one is truncated or of another size.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._files = path, image_files.find(path)
        self.shape = image_files.read(self._files[0]).rgb_HWC.shape
        self._modes: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._files)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """See `ImageSet`."""
        return {"image": np.stack([self._read(int(row)) for row in rows])}

    def _read(self, row: int) -> np.ndarray:
        pixels, mode = image_files.read(self._files[row])
        if pixels.shape != self.shape:
            sizes = ["{1} x {0}".format(*shape) for shape in (pixels.shape, self.shape)]
            raise UserError(
                f"{self._files[row]} is {sizes[0]} pixels, and {self._files[0]} is {sizes[1]}; "
                "crop and resize the images to one size first: how that is done changes FID"
            )
        self._modes[row] = mode
        return pixels

    def remark(self) -> str:
        """How many were not RGB, by mode."""
        other = collections.Counter(mode for mode in self._modes.values() if mode != "RGB")
        listed = ", ".join(f"{count} of mode {mode}" for mode, count in sorted(other.items()))
        return f"{self.path}: converted to RGB: {listed}" if listed else ""


class NpzImages:
    """The array `arr_0` of an .npz file, uint8 [N, H, W, channels], as ADM's evaluator has it.

    Raises:
      UserError: it has none, or another, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._member = zipfile.ZipFile(path).open("arr_0.npy")  # noqa: SIM115
            version = np.lib.format.read_magic(self._member)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(self._member)
        except KeyError:
            raise UserError(f"{path} has no array arr_0, uint8 images [N, H, W, 3]") from None
        except npz.UNREADABLE as error:
            raise UserError(f"{path} cannot be read as .npz ({error})") from None
        fits = len(shape) == 4 and shape[-1] in (1, 3) and min(shape) > 0 and not fortran
        if dtype != np.uint8 or not fits:
            raise UserError(
                f"{path}: arr_0 is {dtype} {list(shape)}, must be uint8 images [N, H, W, 3]"
            )
        self._count, *size = shape
        self.shape, self._start, self._next = tuple(size), self._member.tell(), 0

    def __len__(self) -> int:
        return self._count

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """See `ImageSet`; quickest in rising order."""
        return {"image": np.stack([self._read(int(row)) for row in rows])}

    def _read(self, row: int) -> np.ndarray:
        size = int(np.prod(self.shape))
        try:
            if row != self._next:
                self._member.seek(self._start + row * size)
            content = self._member.read(size)
        except npz.UNREADABLE as error:
            raise UserError(f"{self.path}: image {row} cannot be read ({error})") from None
        self._next = row + 1
        if len(content) != size:
            raise UserError(f"{self.path}: it ends before image {row}")
        return np.frombuffer(content, np.uint8).reshape(self.shape)

    def remark(self) -> str:
        """Nothing is done to them."""
        return ""


def open_images(path: Path) -> ImageSet:
    """The images of a folder or an .npz file.

    Raises:
      UserError: as `FolderImages` and `NpzImages`, or it is neither.
    """
    if path.is_dir():
        return FolderImages(path)
    if path.suffix == ".npz" and path.exists():
        return NpzImages(path)
    why = "is neither a folder of images nor an .npz file" if path.exists() else "is missing"
    raise UserError(f"{path} {why}; give a folder of PNG or JPEG files, or an .npz with arr_0")


def digest(path: Path, key: str) -> str:
    """What tells an image set or a file of statistics from another.

    Of a file its SHA-256; of a folder that of the names and sizes of its files.

    Raises:
      UserError: it cannot be read; `key` says where it was given.
    """
    if path.is_dir():
        listed = [f"{file.relative_to(path)} {file.stat().st_size}" for file in
                  image_files.find(path)]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    if not path.exists():
        raise UserError(f"{key}: {path} is missing; give a folder of images or an .npz file")
    stat = path.stat()
    return _file_digest(path, key, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache
def _file_digest(path: Path, key: str, changed: int, size: int) -> str:
    del changed, size  # of the file that the digest is known of
    return files.input_digest(path, key)
