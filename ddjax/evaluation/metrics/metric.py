"""Metric: a figure about a set of images, a column of the report."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from ddjax.evaluation.frechet import Gaussian
from ddjax.evaluation.reference import Reference
from ddjax.evaluation.statistics import Observed, Statistics


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """A set of images as it is measured.

    Attributes:
      statistics: of all of them.
      features_NF: pooled features, for precision and recall; None where they were not kept.
      passes: of networks for an image; None of data.
      seconds_per_image: None where no network draws.
      teacher_seconds_per_image: of the teacher's AR sampling; None where it was not drawn.
    """

    statistics: Statistics
    features_NF: np.ndarray | None = None
    passes: int | None = None
    seconds_per_image: float | None = None
    teacher_seconds_per_image: float | None = None

    @property
    def count(self) -> int:
        """Images in the set."""
        return self.statistics.count

    @functools.cached_property
    def pooled(self) -> Gaussian:
        """Of the pooled features."""
        return self.statistics.pooled.gaussian

    @functools.cached_property
    def spatial(self) -> Gaussian | None:
        """Of the spatial features, where the net has some."""
        return None if self.statistics.spatial is None else self.statistics.spatial.gaussian


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure about a set of images.

    A metric reads something off each image (`per_image`), whose mean it is by default; or it is
    computed from other statistics of the set (`compute`), or both.

    Attributes:
      name: in metrics.json.
      title: in the table.
      text: format of a value in the table.
      needs: attributes of `Samples` without which it has no meaning.
      compares_with: likewise, of `Reference`.
      inception: whether the features must be Inception's, or must not; None for any.
      deviates: whether it differs from set to set, so that its deviation is reported.
      scale: of the value in the table.
    """

    name: str
    title: str
    text: str
    needs: ClassVar[tuple[str, ...]] = ()
    compares_with: ClassVar[tuple[str, ...]] = ()
    inception: ClassVar[bool | None] = None
    deviates: ClassVar[bool] = True
    scale: ClassVar[float] = 1.0

    @property
    def key(self) -> str:
        """Of what it reads off each image; metrics of one key read the same."""
        return self.name

    def per_image(self, batch: Observed) -> np.ndarray | None:
        """What it reads off each image, [rows, ...]; None if nothing, as by default."""
        del batch

    def compute(self, samples: Samples, reference: Reference) -> float | None:
        """The figure, or None where it has no meaning; by default the mean over all images."""
        del reference
        mean = samples.statistics.means.get(self.key)
        return float(mean.value.mean()) if mean is not None and mean.count else None

    def value(self, samples: Samples, reference: Reference) -> float | None:
        """The figure, or None where it has no meaning or lacks what it needs."""
        if self.inception not in (None, reference.network.is_inception):
            return None
        given = [getattr(samples, name) for name in self.needs]
        given += [getattr(reference, name) for name in self.compares_with]
        return None if any(one is None for one in given) else self.compute(samples, reference)

    def cell(self, mean: float | None, deviation: float | None) -> str:
        """A value as the table shows it, with its standard deviation over sets."""
        if mean is None:
            return ""
        shown = self.text.format(mean * self.scale)
        if deviation is None or not self.deviates:
            return shown
        return f"{shown} ± {self.text.format(deviation * self.scale)}"
