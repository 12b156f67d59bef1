"""Image grids."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ddjax.evaluation.pixels import to_unit
from ddjax.storage.files import atomic

DPI = 150

# Inches that a character and a line of a caption take, and characters that always fit.
CHARACTER, LINE, SHORT = 0.073, 0.13, 10


class Picture(NamedTuple):
    """A picture of the report: its file in the workdir, its title, a line about it or ""."""

    file: str
    title: str
    about: str = ""


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """One picture [rows * H, columns * W, channels] in [0, 1] of images [N, H, W, channels]."""
    images = to_unit(images)
    n, h, w, channels = images.shape
    rows = -(-n // columns)
    padded = np.ones((rows * columns, h, w, channels), np.float32)
    padded[:n] = images
    grid = padded.reshape(rows, columns, h, w, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, channels)


def labelled_grid(
    path: Path, rows: dict[str, np.ndarray], captions: Sequence[Sequence[str]], title: str
) -> None:
    """Write a PNG: a row of images for each name, captions over the images.

    Args:
      path: of the PNG.
      rows: by name, images [n, H, W, channels] in [-1, 1].
      captions: of the images of the first rows; one list captions the columns.
      title: over everything.
    """
    # A small image is shown large, a large one at its own size.
    side = max(0.62, max(images.shape[1] for images in rows.values()) / DPI)
    longest = max((len(caption) for names in captions for caption in names), default=0)
    if longest > SHORT:
        side = max(side, 1.0)
    captions = [[_wrapped(caption, side) for caption in names] for names in captions]
    lines = max((1 + caption.count("\n") for names in captions for caption in names), default=1)
    columns, above = max(map(len, rows.values())), LINE * (lines - 1)
    space = 0.06 if len(captions) == 1 else 0.35 + above / side
    height = side * (1 + space) * len(rows) + 0.7 + above
    figure, axes = plt.subplots(
        len(rows), columns, squeeze=False, figsize=(side * columns + 1.6, height),
        # Inches for the title and the captions under it, however few rows there are.
        gridspec_kw={"wspace": 0.06, "hspace": space, "top": 1 - (0.55 + above) / height,
                     "bottom": 0.1 / height},
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, to_unit(images), strict=False):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for row, names in zip(axes, captions, strict=False):
        for axis, caption in zip(row, names, strict=False):
            axis.set_title(caption, fontsize=8, pad=3, parse_math=False)
    figure.suptitle(title, fontsize=9, y=1 - 0.1 / height, va="top")
    write(figure, path)


def _wrapped(caption: str, side: float) -> str:
    """A caption in at most four lines over an image `side` inches wide."""
    return "\n".join(textwrap.wrap(
        caption, int(side / CHARACTER), max_lines=4, placeholder="..."
    )) or " "


def write(figure: plt.Figure, path: Path) -> None:
    """Write a figure as a PNG, and close it."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight")
    plt.close(figure)
