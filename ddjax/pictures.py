"""Pictures for people: grids of images, and quality against time."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ddjax.workdir import atomic


def to_unit(images: np.ndarray) -> np.ndarray:
    """From [-1, 1] to [0, 1], clamped."""
    return np.clip((np.asarray(images, np.float32) + 1) / 2, 0, 1)


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
    path: Path, rows: dict[str, np.ndarray], columns: Sequence[str], title: str
) -> None:
    """Write a PNG: a row of images for each name, a caption over each column.

    Args:
      path: of the PNG.
      rows: by name, images [len(columns), H, W, channels] in [-1, 1].
      columns: captions.
      title: over everything.
    """
    figure, axes = plt.subplots(
        len(rows), len(columns), squeeze=False,
        figsize=(0.62 * len(columns) + 1.6, 0.62 * len(rows) + 0.7),
        gridspec_kw={"wspace": 0.06, "hspace": 0.06},
    )
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, to_unit(images), strict=True):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for axis, caption in zip(axes[0], columns, strict=True):
        axis.set_title(caption, fontsize=8, pad=3)
    figure.suptitle(title, fontsize=9, y=0.97)
    _write(figure, path)


def tradeoff(
    path: Path, points: dict[str, tuple[float, float]], lines: dict[str, float], quality: str
) -> None:
    """Write a PNG: quality (lower is better) against seconds per image.

    Args:
      path: of the PNG.
      points: by name, (seconds per image, quality).
      lines: qualities that have no time of their own, as horizontal lines.
      quality: caption of the axis.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    markers = "osD^vP*X<>hp"
    for i, (name, (seconds, value)) in enumerate(sorted(points.items(), key=lambda p: p[1])):
        axis.plot(seconds * 1e3, value, markers[i % len(markers)], label=name, markersize=8)
    for name, value in lines.items():
        axis.axhline(value, color="grey", lw=0.8, ls=":")
        axis.annotate(name, (0.01, value), xycoords=("axes fraction", "data"), fontsize=8,
                      color="grey", va="bottom")
    axis.set(xscale="log", yscale="log", xlabel="milliseconds per image (steady state)",
             ylabel=f"{quality} (lower is better)")
    axis.grid(alpha=0.3, which="both", lw=0.4)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    _write(figure, path)


def _write(figure: plt.Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)
