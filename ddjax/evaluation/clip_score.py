"""CLIP score: how well images go with the texts that they were drawn from."""

import numpy as np


def clip_score(images_NE: np.ndarray, texts_NE: np.ndarray) -> float:
    """The mean of 100 max(cosine, 0) over pairs of an image and its text; in 0..100.

    CLIP-S of Hessel et al. 2021 (arXiv 2104.08718, equation 1) with w = 100, as text-to-image
    papers report it, where that paper has w = 2.5: 40 times its value. It is measured by the CLIP
    model that it is given with, such as ViT-B/32.

    Args:
      images_NE: unit vectors of the images, as `ImageTextNet.embed_images` gives them.
      texts_NE: unit vectors of their texts, in the same order.
    """
    cosines_N = np.sum(np.multiply(images_NE, texts_NE, dtype=np.float64), axis=1)
    return float(100 * np.mean(np.maximum(cosines_N, 0)))
