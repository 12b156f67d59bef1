"""Inception score; see `ddjax.evaluation.inception_score`."""

from ddjax.evaluation.metrics.metric import Metric, Samples
from ddjax.evaluation.reference import Reference


class InceptionScore(Metric):
    """In ten splits, the mean of them."""

    inception = True

    def compute(self, samples: Samples, reference: Reference) -> float | None:
        """See `Metric`."""
        del reference
        splits = samples.statistics.splits
        return None if splits is None else splits.score


INCEPTION_SCORE = InceptionScore("inception_score", "IS", "{:.1f}")
