"""Precision and recall; see `ddjax.evaluation.precision_recall`."""

import functools

from ddjax.evaluation.metrics.metric import Metric, Samples
from ddjax.evaluation.precision_recall import PrecisionRecall, precision_recall
from ddjax.evaluation.reference import Reference


class OnManifold(Metric):
    """A field of `PrecisionRecall`, by the name of the metric."""

    needs, compares_with = ("features_NF",), ("features_NF",)

    def compute(self, samples: Samples, reference: Reference) -> float:
        """See `Metric`."""
        return getattr(_both(samples, reference), self.name)


@functools.lru_cache(maxsize=1)  # the second of the two asks for the same
def _both(samples: Samples, reference: Reference) -> PrecisionRecall:
    fake_MF = samples.features_NF[: reference.among.samples]
    return precision_recall(reference.features_NF, fake_MF, reference.neighbours)


PRECISION = OnManifold("precision", "precision", "{:.2f}")
RECALL = OnManifold("recall", "recall", "{:.2f}")
