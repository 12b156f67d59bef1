"""Precision and recall of samples against data (improved precision and recall, arXiv 1904.06991).

The manifold of a set is the union of balls around its members, each as wide as the distance to its
k-th neighbour in the set. Every member has a ball, and a point on the edge is inside, as in ADM's
evaluator. Distances are of all pairs, in float32 and block by block: 10,000 and 50,000 points of
2048 features take 1.7 GB.
"""

from typing import NamedTuple

import numpy as np

# Points in a block of rows and of columns.
BLOCK = 2000

# Columns of which only the minimum is looked at first.
GROUP = 16


class PrecisionRecall(NamedTuple):
    """Share of the fakes on the manifold of the real ones, and the other way round."""

    precision: float
    recall: float


def precision_recall(real_NF: np.ndarray, fake_MF: np.ndarray, neighbours: int) -> PrecisionRecall:
    """Both, from one pass over the pairs of real and fake.

    Args:
      real_NF: features of the data, of any float type.
      fake_MF: features of the samples.
      neighbours: k; both sets need more points than that.
    """
    # Distances do not change when all is moved, and numbers near 0 lose less to rounding.
    centre_F = real_NF.mean(0, dtype=np.float32)
    real, fake = _Points.of(real_NF, centre_F), _Points.of(fake_MF, centre_F)
    radii_N, radii_M = (_square_radii(points, neighbours) for points in (real, fake))
    real_is_in, fake_is_in = np.zeros(len(real_NF), bool), np.zeros(len(fake_MF), bool)
    for rows in _blocks(len(real_NF)):
        for columns in _blocks(len(fake_MF)):
            squares = real.squares(rows, fake, columns)
            fake_is_in[columns] |= (squares <= radii_N[rows, None]).any(0)
            real_is_in[rows] |= (squares <= radii_M[None, columns]).any(1)
    return PrecisionRecall(float(fake_is_in.mean()), float(real_is_in.mean()))


class _Points(NamedTuple):
    """Points with two further columns, so that one matrix product gives squared distances.

    |x - y|^2 = (-2 x, |x|^2, 1) . (y, 1, |y|^2)
    """

    left_NF: np.ndarray
    right_NF: np.ndarray

    @classmethod
    def of(cls, features_NF: np.ndarray, centre_F: np.ndarray) -> "_Points":
        points = features_NF - centre_F
        norms_N1 = np.einsum("nf,nf->n", points, points)[:, None]
        ones_N1 = np.ones_like(norms_N1)
        right = np.concatenate([points, ones_N1, norms_N1], axis=1)
        points *= -2
        return cls(np.concatenate([points, norms_N1, ones_N1], axis=1), right)

    def squares(self, rows: slice, other: "_Points", columns: slice) -> np.ndarray:
        """Squared distances [rows, columns], float32."""
        return self.left_NF[rows] @ other.right_NF[columns].T


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def _square_radii(points: _Points, neighbours: int) -> np.ndarray:
    """Squared distance [N] of each point to its k-th neighbour; every pair is computed once."""
    count = len(points.left_NF)
    nearest_NK = np.full((count, neighbours), np.inf, np.float32)
    blocks = _blocks(count)
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            squares = points.squares(rows, points, columns)
            if columns == rows:
                np.fill_diagonal(squares, np.inf)  # a point is no neighbour of its own
            else:
                _keep_nearest(nearest_NK[columns], squares.T)
            _keep_nearest(nearest_NK[rows], squares)
    return nearest_NK.max(1)


def _keep_nearest(nearest_NK: np.ndarray, squares_NM: np.ndarray) -> None:
    """Put into `nearest_NK` what of new squared distances is smaller; in place."""
    neighbours = nearest_NK.shape[1]
    better_N = (squares_NM.min(1) < nearest_NK.max(1)).nonzero()[0]
    if not len(better_N):
        return
    both = np.concatenate([nearest_NK[better_N], _smallest(squares_NM[better_N], neighbours)], 1)
    nearest_NK[better_N] = np.partition(both, neighbours - 1, axis=1)[:, :neighbours]


def _smallest(squares_NM: np.ndarray, count: int) -> np.ndarray:
    """At least the `count` smallest of each row, [N, ...]: in the groups of the smallest minima."""
    total, groups = squares_NM.shape[1], squares_NM.shape[1] // GROUP
    if total % GROUP or groups <= count:
        return squares_NM
    grouped = squares_NM.reshape(-1, GROUP, groups)
    best_NK = np.argpartition(grouped.min(1), count - 1, axis=1)[:, :count]
    return np.take_along_axis(grouped, best_NK[:, None], axis=2).reshape(len(squares_NM), -1)
