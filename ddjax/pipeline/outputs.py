"""Outputs of a pipeline: images with their ids, and trajectories."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Output:
    """What a call of a `Pipeline` gives.

    Attributes:
      images: [N, H, W, channels] in 0..1.
      ids: [N, L].
      titles: the label or caption of each image.
      seconds: from noise to images, compilation apart.
      log_probs: [N, L, V], what the ids were chosen from, where it was asked for.
    """

    images: np.ndarray
    ids: np.ndarray
    titles: list[str]
    seconds: float
    log_probs: np.ndarray | None = None

    def pil(self) -> list[Any]:
        """The images as `PIL.Image.Image`."""
        from PIL import Image

        levels = (self.images * 255 + 0.5).astype(np.uint8)
        return [Image.fromarray(image.squeeze()) for image in levels]


class Trajectory(NamedTuple):
    """Images X_k of the same noise, [K, N, H, W, channels] in 0..1, with their k and final ids.

    X_0 is all noise, X_G the finished image.
    """

    images: np.ndarray
    k: tuple[int, ...]
    ids: np.ndarray
