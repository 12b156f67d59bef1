"""Moments: mean and covariance of rows that come batch by batch, in float64.

Blocks of rows are merged by the pairwise update of Chan, Golub and LeVeque (1979), which, unlike
sums of squares, loses nothing where the mean is large.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np

from ddjax.evaluation.frechet import Gaussian

# Rows that are merged at once: enough for a matrix product, few enough for memory.
BLOCK = 1024


class Moments:
    """Count, mean [F] and scatter [F, F] (sum of outer products about the mean) of rows [N, F].

    Rows wait until there are `BLOCK` of them, so that what comes out depends on the rows and their
    order, not on how they came in batches.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean_F = np.zeros(width)
        self.scatter_FF = np.zeros((width, width))
        self._waiting_NF = np.zeros((0, width), np.float32)

    def add(self, rows_NF: np.ndarray) -> None:
        """Take rows in."""
        waiting = np.concatenate([self._waiting_NF, rows_NF])
        while len(waiting) >= BLOCK:
            self._merge_rows(waiting[:BLOCK])
            waiting = waiting[BLOCK:]
        self._waiting_NF = waiting

    def merge(self, other: Self) -> None:
        """Take in all rows of another."""
        for one in (self, other):
            one._merge_rows(one._waiting_NF)
            one._waiting_NF = one._waiting_NF[:0]
        self._merge(other.count, other.mean_F, other.scatter_FF)

    @property
    def gaussian(self) -> Gaussian:
        """Mean and covariance, with N - 1 below.

        Raises:
          ValueError: there are fewer than two rows.
        """
        whole = Moments(len(self.mean_F))
        whole.merge(self)
        if whole.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, not {whole.count}")
        return Gaussian(whole.mean_F, whole.scatter_FF / (whole.count - 1))

    def arrays(self) -> dict[str, np.ndarray]:
        """All there is to keep; `of_arrays` makes the very same of it."""
        return {"count": np.array(self.count), "mean": self.mean_F, "scatter": self.scatter_FF,
                "waiting": self._waiting_NF}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """See `arrays`."""
        made = cls(0)
        made.count, made.mean_F = int(arrays["count"]), arrays["mean"]
        made.scatter_FF, made._waiting_NF = arrays["scatter"], arrays["waiting"]
        return made

    def _merge_rows(self, rows_NF: np.ndarray) -> None:
        if not len(rows_NF):
            return
        rows_NF = rows_NF.astype(np.float64)
        mean_F = rows_NF.mean(0)
        rows_NF -= mean_F
        self._merge(len(rows_NF), mean_F, rows_NF.T @ rows_NF)

    def _merge(self, count: int, mean_F: np.ndarray, scatter_FF: np.ndarray) -> None:
        total = self.count + count
        if not count:
            return
        apart_F = mean_F - self.mean_F
        self.scatter_FF += scatter_FF
        self.scatter_FF += np.outer(apart_F * (self.count * count / total), apart_F)
        self.mean_F = self.mean_F + apart_F * (count / total)
        self.count = total
