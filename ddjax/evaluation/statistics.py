"""Statistics of a set of images, taken in batch by batch: what metrics are computed from.

Their size does not depend on the number of images, but for what is kept row by row.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddjax.evaluation.inception_score import SplitDistributions
from ddjax.evaluation.moments import Moments
from ddjax.method.protocols import Features


@dataclasses.dataclass(frozen=True)
class Observed:
    """Images of a set, some of them, as arrays on the host.

    Attributes:
      index_B: their numbers in the set.
      levels_BHWC: uint8; H, W, C of the images.
      features: of the net.
      class_B: that the net sees; None where it does not classify.
      label_B: class that was asked for; None without classes.
      number_B: of the condition that was asked for; None of images without.
      scene_B: number of the scene that a picture of shapes should show; None of other images.
      cosine_B: of the image and its caption, by CLIP; None without.
      ids_BL: tokens; None of data.
      exact_ids_BL: tokens of the teacher's map for the same noise; None where it is not drawn.
    """

    index_B: np.ndarray
    levels_BHWC: np.ndarray
    features: Features
    class_B: np.ndarray | None = None
    label_B: np.ndarray | None = None
    number_B: np.ndarray | None = None
    scene_B: np.ndarray | None = None
    cosine_B: np.ndarray | None = None
    ids_BL: np.ndarray | None = None
    exact_ids_BL: np.ndarray | None = None


@dataclasses.dataclass
class Mean:
    """Sum and count of rows [B, ...] of any shape, float64."""

    total: np.ndarray
    count: int

    def add(self, rows: np.ndarray) -> None:
        """Take rows in."""
        self.total = self.total + rows.sum(0, dtype=np.float64)
        self.count += len(rows)

    @property
    def value(self) -> np.ndarray:
        """The mean [...]."""
        return self.total / self.count


class Statistics:
    """Of a set of images, or of those that this process has seen of it.

    Attributes:
      total: images in the whole set.
      count: those that were taken in.
      pooled: moments of the pooled features; None as long as there are none.
      spatial: of the spatial features; None where the net has none.
      splits: distributions over the net's own classes; None where it has none.
      means: of what metrics read off each image, by their keys.
    """

    def __init__(self, total: int) -> None:
        self.total, self.count = total, 0
        self.pooled: Moments | None = None
        self.spatial: Moments | None = None
        self.splits: SplitDistributions | None = None
        self.means: dict[str, Mean] = {}

    def add(self, batch: Observed, values: Mapping[str, np.ndarray]) -> None:
        """Take images in, and what metrics read off each of them: [rows, ...] by key."""
        self.count += len(batch.index_B)
        pooled, spatial, logits = batch.features
        self.pooled = _added(self.pooled, pooled)
        if spatial is not None:
            self.spatial = _added(self.spatial, spatial)
        if logits is not None:
            if self.splits is None:
                self.splits = SplitDistributions(self.total, logits.shape[1])
            self.splits.add(batch.index_B, logits)
        for key, rows in values.items():
            self.means.setdefault(key, Mean(np.zeros(rows.shape[1:]), 0)).add(rows)

    def merge(self, other: "Statistics") -> None:
        """Take in all that another has seen of the same set, or, but for `splits`, of another."""
        self.count += other.count
        for name in ("pooled", "spatial", "splits"):
            theirs = getattr(other, name)
            if theirs is not None and getattr(self, name) is None:
                setattr(self, name, theirs)
            elif theirs is not None:
                getattr(self, name).merge(theirs)
        for key, mean in other.means.items():
            own = self.means.setdefault(key, Mean(np.zeros_like(mean.total), 0))
            own.total, own.count = own.total + mean.total, own.count + mean.count

    def arrays(self) -> dict[str, np.ndarray]:
        """All there is to keep, by names with dots; `of_arrays` makes the very same of it."""
        parts: dict[str, Any] = {
            "total": np.array(self.total), "count": np.array(self.count)
        }
        for name in ("pooled", "spatial", "splits"):
            if getattr(self, name) is not None:
                made = getattr(self, name).arrays()
                parts |= {f"{name}.{key}": array for key, array in made.items()}
        for key, mean in self.means.items():
            parts |= {f"means.{key}.total": mean.total, f"means.{key}.count": np.array(mean.count)}
        return parts

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Statistics":
        """See `arrays`."""
        made, parts = cls(int(arrays["total"])), {}
        made.count = int(arrays["count"])
        for name, array in arrays.items():
            where, _, key = name.rpartition(".")
            parts.setdefault(where, {})[key] = array
        kinds = {"pooled": Moments, "spatial": Moments, "splits": SplitDistributions}
        for where, found in parts.items():
            if where in kinds:
                setattr(made, where, kinds[where].of_arrays(found))
            elif where.startswith("means."):
                mean = Mean(found["total"], int(found["count"]))
                made.means[where.removeprefix("means.")] = mean
        return made


def _added(moments: Moments | None, rows_NF: np.ndarray) -> Moments:
    moments = Moments(rows_NF.shape[1]) if moments is None else moments
    moments.add(rows_NF)
    return moments
