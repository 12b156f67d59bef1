"""Prepared images: cropped and resized once, by threads, and kept on disk as uint8 pixels.

What is kept is bound to a digest of the raw images' listing and of the way they are prepared, so
that it is made again for a changed folder or another size, and shared by all runs that read the
same. It is read through a memory map: it may be larger than memory.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps

from ddjax.config.schema import DataSection
from ddjax.data.image_files import Pixels
from ddjax.data.sources import HELD_OUT, Images
from ddjax.runtime import progress
from ddjax.runtime.errors import UserError

# Says how pixels are made; another one makes everything again.
METHOD = "centre crop, bicubic, antialiased, 1"

CHUNK = 512

# Of a class: one to learn from and one to hold out.
FEWEST = 2


class RawImages(Protocol):
    """Images of any size and mode, as they are found.

    Attributes:
      name: of the set, for messages.
      names: of each image; they do not change when others are added.
      classes: names of the classes; [""] where there are none.
      digest: of the listing: another where an image was added, removed or changed.
    """

    name: str
    names: list[str]
    classes: list[str]
    digest: str

    def read(self, number: int) -> tuple[Pixels, int]:
        """An image and its label.

        Raises:
          UserError: it cannot be read; says why.
        """


class One(NamedTuple):
    """An image as it is kept, uint8 [S, S, channels], or why it could not be read."""

    pixels: np.ndarray | None = None
    label: int = 0
    why: str = ""
    is_grey: bool = False
    is_small: bool = False


def square(rgb_HWC: np.ndarray, size: int, channels: int) -> np.ndarray:
    """The centre of an image as uint8 [size, size, channels].

    The largest square is cut out and resized by Pillow, bicubic and antialiased: each pixel is
    interpolated from all that it covers. One channel is the luma of ITU-R 601-2.
    """
    image = Image.fromarray(rgb_HWC).convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(size, size, channels)


def held_out(names: Sequence[str]) -> np.ndarray:
    """Bool [N]: one image in ten, by its name alone; at least one, and not all."""
    keys = np.array([zlib.crc32(name.encode()) for name in names])
    chosen = keys % HELD_OUT == 0
    if chosen.all() or not chosen.any():
        chosen = np.arange(len(keys)) == keys.argmin()
    return chosen


def check_classes(name: str, classes: Sequence[str], labels: Sequence[int]) -> None:
    """Refuse a class with so few images that none could be held out.

    Args:
      name: of the set.
      classes: names.
      labels: [N], of the images.

    Raises:
      UserError: names the class.
    """
    counts = np.bincount(np.asarray(labels, np.int32), minlength=len(classes))
    if counts.min() < FEWEST:
        few, has = classes[counts.argmin()], ("no image", "one image")[counts.min()]
        whose = f"class {few} of {name}" if few else name
        raise UserError(
            f"{whose} has {has} that can be read; {FEWEST} are the fewest, one to learn from and "
            "one to hold out"
        )


def load(raw: RawImages, config: DataSection) -> Images:
    """The images at the config's size, prepared now or found on disk.

    Raises:
      UserError: more than `config.skip_at_most` of them cannot be read, or too few of a class can.
    """
    listing = f"{raw.digest} {config.image_size} {config.image_channels} {METHOD}"
    root = Path(config.cache or _default_cache())
    folder = root / hashlib.sha256(listing.encode()).hexdigest()[:32]
    with _alone(folder) as alone:
        if not folder.exists():
            if alone:  # what is left was left by a process that was killed
                for left in root.glob(f"{folder.name}.*.tmp"):
                    shutil.rmtree(left, ignore_errors=True)
            _prepare(raw, config, folder)
    return _open(raw, config, folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Wait while another process prepares a folder; False where the file system has no locks."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("a") as file:
        alone = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            alone = False
        yield alone


def _default_cache() -> str:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.path.expanduser(f"{home}/ddjax/images")


def _prepare(raw: RawImages, config: DataSection, folder: Path) -> None:
    """Make the folder: `pixels`, one image behind the other, and `about.json`."""
    work = Path(tempfile.mkdtemp(".tmp", f"{folder.name}.", folder.parent))
    try:
        about = _write_pixels(raw, config, work / "pixels")
        check_classes(raw.name, raw.classes, about["labels"])
        (work / "about.json").write_text(json.dumps(about))
        try:
            work.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was as quick
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_pixels(raw: RawImages, config: DataSection, path: Path) -> dict[str, Any]:
    """Read, crop, resize and write all images; returns what `about.json` holds."""
    count, content = len(raw.names), hashlib.sha256()
    labels, found = [], {"skipped": [], "grey": [], "small": []}
    one = functools.partial(_read_one, raw, config)
    with (
        path.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool,
        # Filters are the process': what `image_files.read` sets for its thread, others reset.
        warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
    ):
        for start in progress.bar(range(0, count, CHUNK), "images", -(-count // CHUNK)):
            numbers = range(start, min(start + CHUNK, count))
            for number, image in zip(numbers, pool.map(one, numbers), strict=True):
                name = raw.names[number]
                if image.pixels is None:
                    found["skipped"].append([name, image.why])
                    _check_skipped(raw, found["skipped"], config.skip_at_most)
                    continue
                for what, holds in (("grey", image.is_grey), ("small", image.is_small)):
                    found[what] += [name] * holds
                pixels = image.pixels.tobytes()
                file.write(pixels)
                content.update(pixels + f"{image.label} {name}\n".encode())
                labels.append(image.label)
        file.flush()
        os.fsync(file.fileno())
    return {"digest": content.hexdigest(), "labels": labels, **found}


def _read_one(raw: RawImages, config: DataSection, number: int) -> One:
    try:
        (rgb, mode), label = raw.read(number)
    except UserError as error:
        return One(why=str(error))
    size, channels = config.image_size, config.image_channels
    is_grey = mode in ("1", "L", "LA") or mode.startswith("I")
    return One(square(rgb, size, channels), label, "", is_grey, min(rgb.shape[:2]) < size)


def _check_skipped(raw: RawImages, skipped: list[list[str]], share: float) -> None:
    count = len(raw.names)
    if len(skipped) > share * count:
        raise UserError(
            f"{skipped[0][1]}; {len(skipped)} or more of {count} images of {raw.name} are like "
            f"this, and config.data.skip_at_most allows {share:g} of them to be left out; remove "
            "or replace them, or raise it"
        )


def _open(raw: RawImages, config: DataSection, folder: Path) -> Images:
    try:
        about = json.loads((folder / "about.json").read_text())
        labels = np.array(about["labels"], np.int32)
        shape = (len(labels), config.image_size, config.image_size, config.image_channels)
        whole = (folder / "pixels").stat().st_size == np.prod(shape)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{folder} is damaged; remove it, and start the same command again")
    _check_skipped(raw, about["skipped"], config.skip_at_most)
    skipped = {name for name, _ in about["skipped"]}
    names = [name for name in raw.names if name not in skipped]
    return Images(
        np.memmap(folder / "pixels", np.uint8, "r", shape=shape),
        {"label": labels, "source": np.arange(len(labels), dtype=np.int32)},
        held_out(names),
        about["digest"],
        raw.classes,
        tuple(_remarks(about, config)),
        tuple(f"{name}: {why}" for name, why in about["skipped"]),
    )


def _remarks(about: dict[str, Any], config: DataSection) -> Iterator[str]:
    """Lines about images that were left out, or are not as they were asked for."""
    kept, grey, small = len(about["labels"]), about["grey"], about["small"]
    if skipped := about["skipped"]:
        yield f"{len(skipped)} of {kept + len(skipped)} images are left out: {skipped[0][1]}"
    if config.image_channels == 3 and 0 < len(grey) < kept:
        yield f"{len(grey)} of {kept} images are grey, such as {grey[0]}; they stay grey"
    if small:
        yield (
            f"{len(small)} of {kept} images are smaller than {config.image_size} pixels, such as "
            f"{small[0]}; they are enlarged"
        )
