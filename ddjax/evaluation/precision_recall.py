"""Precision and recall of samples against data (improved precision and recall, arXiv 1904.06991).

The manifold of a set is the union of balls around its members, each as wide as the distance to its
k-th neighbour in the set.
"""

import numpy as np
from sklearn.neighbors import NearestNeighbors


def precision(real_NF: np.ndarray, fake_MF: np.ndarray, neighbours: int) -> float:
    """Share of the fakes that lie on the manifold of the real ones."""
    return _covered(fake_MF, real_NF, neighbours)


def recall(real_NF: np.ndarray, fake_MF: np.ndarray, neighbours: int) -> float:
    """Share of the real ones that lie on the manifold of the fakes."""
    return _covered(real_NF, fake_MF, neighbours)


def _covered(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    search = NearestNeighbors(algorithm="brute").fit(manifold)
    # The nearest of a member is itself.
    radii = search.kneighbors(manifold, neighbours + 1)[0][:, -1]
    inside = 0
    for part in np.array_split(points, max(len(points) // 1000, 1)):
        distances = np.sqrt(
            np.maximum(
                (part**2).sum(1)[:, None] + (manifold**2).sum(1)[None] - 2 * part @ manifold.T, 0
            )
        )
        inside += (distances <= radii[None]).any(1).sum()
    return float(inside / len(points))
