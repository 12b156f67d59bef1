"""Reference: what samples are compared with, as statistics in the features of one net."""

import dataclasses
from typing import NamedTuple

import numpy as np

from ddjax.evaluation.frechet import Gaussian
from ddjax.evaluation.network import Network


class Among(NamedTuple):
    """How many images precision and recall compare, at most.

    Attributes:
      reference: of the reference.
      samples: of the samples; None for all.
    """

    reference: int
    samples: int | None


# As ADM's evaluator does it: 10,000 images of the reference and all samples.
AMONG_INCEPTION = Among(10_000, None)
AMONG_OTHERS = Among(5000, 5000)


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with.

    Attributes:
      network: whose features these are.
      name: for reports: the path, or the name of the data.
      count: images behind the statistics; None where a file does not say.
      pooled: Gaussian of the pooled features; None where there is nothing to compare with.
      spatial: Gaussian of the spatial features, or None.
      features_NF: pooled features for precision and recall, or None.
      teacher: Gaussian of other samples of the teacher, or None.
      neighbours: k of precision and recall.
      remark: what was done to its images, or "".
    """

    network: Network
    name: str = ""
    count: int | None = None
    pooled: Gaussian | None = None
    spatial: Gaussian | None = None
    features_NF: np.ndarray | None = None
    teacher: Gaussian | None = None
    neighbours: int = 3
    remark: str = ""

    @property
    def among(self) -> Among:
        """How many images precision and recall compare."""
        return among(self.network)


def among(network: Network) -> Among:
    """How many images precision and recall compare in the features of a net."""
    return AMONG_INCEPTION if network.is_inception else AMONG_OTHERS
