"""Fréchet distances: FID, sFID, and the distance in the features of any other net."""

from ddjax.evaluation.frechet import frechet_distance
from ddjax.evaluation.metrics.metric import Metric, Samples
from ddjax.evaluation.reference import Reference


class ToReference(Metric):
    """Distance to the reference, in the pooled features."""

    compares_with = ("pooled",)

    def compute(self, samples: Samples, reference: Reference) -> float:
        """See `Metric`."""
        return frechet_distance(samples.pooled, reference.pooled)


class FID(ToReference):
    """In Inception's pooled features (arXiv 1706.08500)."""

    inception = True


class ProxyDistance(ToReference):
    """In the features of any other net; it is never called FID."""

    inception = False


class SFID(Metric):
    """In Inception's spatial features (arXiv 2103.03841)."""

    inception = True
    needs, compares_with = ("spatial",), ("spatial",)

    def compute(self, samples: Samples, reference: Reference) -> float:
        """See `Metric`."""
        return frechet_distance(samples.spatial, reference.spatial)


class ToTeacher(Metric):
    """Distance to other samples of the teacher, in the pooled features of whatever net."""

    compares_with = ("teacher",)

    def compute(self, samples: Samples, reference: Reference) -> float:
        """See `Metric`."""
        return frechet_distance(samples.pooled, reference.teacher)


FID_TO_REFERENCE = FID("fid", "FID", "{:.2f}")
SFID_TO_REFERENCE = SFID("sfid", "sFID", "{:.2f}")
FD_DATA = ProxyDistance("fd_data", "FD to data", "{:.2f}")
FD_TEACHER = ToTeacher("fd_teacher", "FD to teacher", "{:.2f}")
