"""Nearest images of a data set to given ones, in the features of a net."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist


class Nearest(NamedTuple):
    """Of each of N images: the number of the nearest of a set, and its distance."""

    number_N: np.ndarray
    distance_N: np.ndarray


def nearest(features_NF: np.ndarray, batches: Iterable[np.ndarray]) -> Nearest:
    """The nearest of a set to each of N images, by Euclidean distance of features.

    Args:
      features_NF: of the images.
      batches: features [B, F] of the set, one batch after another.
    """
    # As features of samples are kept, so that an image is at distance 0 of itself.
    images_NF = features_NF.astype(np.float16)
    number_N = np.zeros(len(images_NF), np.int64)
    distance_N = np.full(len(images_NF), np.inf)
    begin = 0
    for batch_BF in batches:
        found_NB = cdist(images_NF, batch_BF.astype(np.float16))
        closest_N = found_NB.min(1)
        number_N = np.where(closest_N < distance_N, begin + found_NB.argmin(1), number_N)
        distance_N = np.minimum(closest_N, distance_N)
        begin += len(batch_BF)
    return Nearest(number_N, distance_N)
