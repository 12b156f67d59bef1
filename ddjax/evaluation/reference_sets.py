"""Reference sets: a `Reference` from a path, or from images that are measured here."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddjax.evaluation import image_sets, statistics_files
from ddjax.evaluation.image_sets import ImageSet
from ddjax.evaluation.making import Keep
from ddjax.evaluation.measuring import Measure
from ddjax.evaluation.reference import Reference, among
from ddjax.evaluation.set_folder import SetFolder
from ddjax.runtime.errors import UserError


def subset(total: int, most: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Which of `total` images are among at most `most` random ones, by their numbers."""
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(seed).permutation(total)[:most]] = True
    return lambda index: chosen[index]


def of_path(path: Path, measure: Measure, cache: Path, neighbours: int, seed: int) -> Reference:
    """What a path holds: statistics, images, or both; then statistics are those of the file.

    Args:
      path: an .npz file or a folder of images.
      measure: measures images.
      cache: folder for what is measured.
      neighbours: k of precision and recall.
      seed: chooses the images for precision and recall.

    Raises:
      UserError: it cannot be read, or does not fit the net.
    """
    found = None if path.is_dir() else statistics_files.read(path)
    if found is not None:
        statistics_files.check(path, found, measure.network, measure.width)
    made = Reference(measure.network, str(path), neighbours=neighbours)
    if found is None or found.has_images:
        made = of_images(image_sets.open_images(path), made, measure, cache, seed)
    if found is None or found.pooled is None:
        return made
    return dataclasses.replace(
        made, pooled=found.pooled, spatial=found.spatial, count=found.count
    )


def of_images(
    images: ImageSet, about: Reference, measure: Measure, cache: Path, seed: int
) -> Reference:
    """The statistics of an image set.

    Args:
      images: of the set.
      about: the reference without statistics.
      measure: measures images.
      cache: folder for what is measured.
      seed: chooses the images for precision and recall.

    Raises:
      UserError: there are too few, they cannot be read, or do not fit the net.
    """
    total, least = len(images), max(2, about.neighbours + 1)
    if total < least:
        raise UserError(f"{images.path} has {total} images; must be at least {least}")
    keep = Keep(subset(total, among(measure.network).reference, seed))
    folder = SetFolder(cache, total, keep)
    measure.images(folder, "reference", images)
    statistics = folder.read().statistics
    return Reference(
        about.network, about.name, total, statistics.pooled.gaussian,
        None if statistics.spatial is None else statistics.spatial.gaussian,
        folder.rows("features"), neighbours=about.neighbours, remark=images.remark(),
    )
