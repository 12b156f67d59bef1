"""Inception score (arXiv 1606.03498): how sure a net is of each image, and how it differs.

exp of the mean divergence of each image's distribution over classes from their mean, in ten splits;
their mean is the score.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
import scipy.special

SPLITS = 10


class SplitDistributions:
    """Of each split the sum of the distributions over K classes, and of their negative entropies.

    Image i of N belongs to split i * 10 // N: of 50,000 the first 5,000 to the first, as in ADM's
    evaluator.
    """

    def __init__(self, total: int, classes: int) -> None:
        self._total = total
        self._count_S = np.zeros(SPLITS, np.int64)
        self._p_SK = np.zeros((SPLITS, classes))
        self._p_log_p_S = np.zeros(SPLITS)

    def add(self, index_B: np.ndarray, logits_BK: np.ndarray) -> None:
        """Take images in, by their numbers in the set."""
        log_p_BK = scipy.special.log_softmax(logits_BK.astype(np.float64), axis=1)
        p_BK = np.exp(log_p_BK)
        split_B = index_B.astype(np.int64) * SPLITS // self._total
        np.add.at(self._count_S, split_B, 1)
        np.add.at(self._p_SK, split_B, p_BK)
        np.add.at(self._p_log_p_S, split_B, (p_BK * log_p_BK).sum(1))

    def merge(self, other: Self) -> None:
        """Take in what another has seen of the same set."""
        self._count_S += other._count_S
        self._p_SK += other._p_SK
        self._p_log_p_S += other._p_log_p_S

    @property
    def score(self) -> float:
        """The mean over the splits that have images."""
        seen = self._count_S > 0
        count_S = self._count_S[seen]
        p_SK = self._p_SK[seen] / count_S[:, None]
        entropy_S = -scipy.special.xlogy(p_SK, p_SK).sum(1)
        return float(np.exp(self._p_log_p_S[seen] / count_S + entropy_S).mean())

    def arrays(self) -> dict[str, np.ndarray]:
        """All there is to keep; `of_arrays` makes the very same of it."""
        return {"total": np.array(self._total), "count": self._count_S, "p": self._p_SK,
                "p_log_p": self._p_log_p_S}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """See `arrays`."""
        made = cls(int(arrays["total"]), arrays["p"].shape[1])
        made._count_S, made._p_SK = arrays["count"], arrays["p"]
        made._p_log_p_S = arrays["p_log_p"]
        return made
