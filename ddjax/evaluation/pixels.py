"""Pixel values of images."""

import numpy as np


def to_unit(images: np.ndarray) -> np.ndarray:
    """From [-1, 1], as models have them, to float32 in [0, 1], clamped; any shape."""
    return np.clip((np.asarray(images, np.float32) + 1) / 2, 0, 1)
