"""Folders of synthetic images, for tests of what a user may have."""

import numpy as np
from PIL import Image

from ddjax.config.schema import DataSection


def picture(number, height=12, width=16, mode="RGB"):
    """Noise, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def folder(root, counts, **sizes):
    """So many PNGs for each class, by its name; "" for images without classes."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(number, **sizes).save(root / name / f"{i}.png")
            number += 1
    return root


def section(root, classes, size=8, channels=3, **others):
    """The config of a folder `images` beside its cache."""
    return DataSection("folder", size, classes, str(root / "images"), channels,
                       cache=str(root / "cache"), **others)
