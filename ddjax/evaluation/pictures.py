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

# Inches for the names of rows.
NAMES = 1.6

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
    above = LINE * (lines - 1)
    space = 0.06 if len(captions) == 1 else 0.35 + above / side
    right, down, first = side * 1.06, side * (1 + space), 0.55 + above
    width, height = NAMES + right * max(map(len, rows.values())), first + down * len(rows)
    # All in one axis, in inches: an axis for each image takes seconds.
    figure = plt.figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1))
    for row, (name, images) in enumerate(rows.items()):
        top = first + row * down
        axis.text(
            NAMES - 0.06, top + side / 2, name, ha="right", va="center", fontsize=8,
            parse_math=False,
        )
        for column, image in enumerate(to_unit(images)):
            left = NAMES + column * right
            axis.imshow(
                image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest",
                extent=(left, left + side, top + side, top),
            )
    for row, names in enumerate(captions):
        for column, caption in enumerate(names):
            axis.text(
                NAMES + column * right + side / 2, first + row * down - 0.04, caption, ha="center",
                va="bottom", fontsize=8, parse_math=False,
            )
    axis.text((NAMES + width) / 2, 0.1, title, ha="center", va="top", fontsize=9)
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axis.axis("off")
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
