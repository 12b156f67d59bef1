"""CLIP score: how well images go with the captions that they were drawn from."""

import dataclasses

import numpy as np

from ddjax.evaluation.metrics.metric import Metric
from ddjax.evaluation.statistics import Observed


@dataclasses.dataclass(frozen=True)
class ClipScore(Metric):
    """The mean of 100 max(cosine, 0) over images and their captions, in 0..100.

    CLIP-S of Hessel et al. 2021 (arXiv 2104.08718, equation 1) with w = 100, as text-to-image
    papers report it, where that paper has w = 2.5: 40 times its value.
    """

    def per_image(self, batch: Observed) -> np.ndarray | None:
        """100 max(cosine, 0), [rows]."""
        if batch.cosine_B is None:
            return None
        return 100 * np.maximum(batch.cosine_B.astype(np.float64), 0)


CLIP_SCORE = ClipScore("clip_score", "CLIP score", "{:.2f}")
