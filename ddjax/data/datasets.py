"""Data sets by name: scikit-learn's digits, Fashion-MNIST, shapes with captions, a folder, TFDS."""

import gzip
import math
import zlib
from pathlib import Path

import jax
import numpy as np
import scipy

from ddjax.config.schema import FOLDER, SHAPES, TFDS, DataSection
from ddjax.data import prepared, shapes
from ddjax.data.image_folder import ImageFolder
from ddjax.data.sources import HELD_OUT, Images, whole
from ddjax.data.tfds_images import TfdsImages
from ddjax.runtime.errors import UserError


def source(config: DataSection) -> Images:
    """The images of a config, read by number.

    Raises:
      UserError: a label that is no class, files that are missing or cannot be read, or as
        `ddjax.data.image_folder`, `ddjax.data.tfds_images` and `ddjax.data.prepared` say.
    """
    if config.name == FOLDER:
        return prepared.load(ImageFolder(config), config)
    if config.name.startswith(TFDS):
        return prepared.load(TfdsImages(config), config)
    rows = shapes.pictures(config.copies) if config.name == SHAPES else _small(config)
    known = {name: array for name, array in rows.items() if name != "image"}
    return Images(rows["image"], known, rows["source"] % HELD_OUT == 0)


def load(config: DataSection) -> dict[str, np.ndarray]:
    """All examples of `source` at once."""
    return whole(source(config))


def _small(config: DataSection) -> dict[str, np.ndarray]:
    """All images of a set that fits into memory, copies included."""
    loaders = {"digits": _digits, "fashion_mnist": _fashion_mnist}
    images, labels = loaders[config.name](config)
    if labels.max() >= config.num_classes:
        raise UserError(
            f"config.data.num_classes: got {config.num_classes}, must be >= {labels.max() + 1}: "
            f"{config.name} has a label {labels.max()}"
        )
    images = images.astype(np.float32) / images.max() * 2 - 1
    if images.shape[1] != config.image_size:
        shape = (len(images), config.image_size, config.image_size)
        images = np.asarray(jax.image.resize(images, shape, "linear", antialias=True))
    source = np.tile(np.arange(len(images), dtype=np.int32), config.copies)
    images = _copies(images, config.copies)
    return {
        "image": images[..., None],
        "label": np.tile(labels.astype(np.int32), config.copies),
        "source": source,
    }


def _copies(images: np.ndarray, count: int) -> np.ndarray:
    """The images [N, H, W] and `count - 1` jittered copies of all of them, [count * N, H, W]."""
    rng = np.random.default_rng(0)
    jittered = [[_jitter(image, rng) for image in images] for _ in range(count - 1)]
    return np.concatenate([images, *map(np.stack, jittered)])


def _jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by 5 degrees, scale by 4 %, move by 0.4 pixels (each a standard deviation)."""
    angle, scale = np.deg2rad(5) * rng.normal(), np.exp(0.04 * rng.normal())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre - turn @ centre + 0.4 * rng.normal(size=2)
    return np.clip(scipy.ndimage.affine_transform(image, turn, offset, order=3, cval=-1), -1, 1)


def _digits(config: DataSection) -> tuple[np.ndarray, np.ndarray]:
    del config
    from sklearn import datasets  # slow to import, and only this needs it

    digits = datasets.load_digits()
    return digits.images, digits.target


def _fashion_mnist(config: DataSection) -> tuple[np.ndarray, np.ndarray]:
    if config.directory:
        folder = Path(config.directory)
        return _idx(folder, "train-images-idx3-ubyte"), _idx(folder, "train-labels-idx1-ubyte")
    import tensorflow_datasets as tfds

    try:
        rows = tfds.as_numpy(tfds.load("fashion_mnist", split="train", batch_size=-1))
    except Exception as error:
        raise UserError(
            f"Fashion-MNIST could not be downloaded with TFDS ({type(error).__name__}: {error}); "
            "give a folder with its IDX files: --config.data.directory=DIR"
        ) from error
    return rows["image"][..., 0], rows["label"]


def _idx(folder: Path, name: str) -> np.ndarray:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return _parse_idx(path)
    raise UserError(f"config.data.directory: {folder / name}[.gz] is missing")


def _parse_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: 0, 0, 8, number of axes, each axis as a big-endian uint32, data."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); get it again") from None
    axes = content[3] if content[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * axes
    shape = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start else [-1]
    if not axes or len(content) != start + math.prod(shape):
        raise UserError(f"{path} is not a whole IDX file of bytes; get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
