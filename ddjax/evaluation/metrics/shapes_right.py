"""Shapes right: share of the pictures of shapes that show what their captions say."""

import dataclasses

import numpy as np

from ddjax.data import shapes
from ddjax.evaluation.metrics.metric import Metric, Samples
from ddjax.evaluation.reference import Reference
from ddjax.evaluation.statistics import Observed


@dataclasses.dataclass(frozen=True)
class ShapesRight(Metric):
    """Share of the pictures in which an aspect is right, or all of them are.

    Attributes:
      aspect: number of it in `shapes.ASPECTS`; behind them: all.
      held_out: whether of captions that no training picture had alone.
    """

    aspect: int = len(shapes.ASPECTS)
    held_out: bool = False

    @property
    def key(self) -> str:
        """All aspects are read at once."""
        return "right_held_out" if self.held_out else "right"

    def per_image(self, batch: Observed) -> np.ndarray | None:
        """Bool [rows, aspects and all of them]."""
        if batch.scene_B is None:
            return None
        asked = shapes.is_held_out(batch.scene_B) | (not self.held_out)
        pictures = batch.levels_BHWC[asked].astype(np.float32) / 255
        right = shapes.checked(pictures, batch.scene_B[asked]).reshape(-1, len(shapes.ASPECTS))
        return np.concatenate([right, right.all(1, keepdims=True)], axis=1)

    def compute(self, samples: Samples, reference: Reference) -> float | None:
        """See `Metric`."""
        del reference
        mean = samples.statistics.means.get(self.key)
        return float(mean.value[self.aspect]) if mean is not None and mean.count else None


SHAPES_RIGHT = (
    *(ShapesRight(f"{aspect}_right", aspect, "{:.3f}", i) for i, aspect in
      enumerate(shapes.ASPECTS)),
    ShapesRight("all_right", "all right", "{:.3f}"),
    ShapesRight("all_right_held_out", "all right, held out", "{:.3f}", held_out=True),
)
