"""Precision and recall against a slow loop written from ADM's definition."""

import numpy as np
import pytest

from ddjax.evaluation import precision_recall as module
from ddjax.evaluation.precision_recall import precision_recall


def slow(real, fake, neighbours):
    def radii(points):
        # The nearest of a point is itself.
        return [np.sort([np.linalg.norm(p - q) for q in points])[neighbours] for p in points]

    def covered(points, manifold):
        widths = radii(manifold)
        return np.mean([
            any(np.linalg.norm(p - q) <= width for q, width in zip(manifold, widths, strict=True))
            for p in points
        ])

    return covered(fake, real), covered(real, fake)


@pytest.mark.parametrize(("neighbours", "block"), [(1, 7), (3, 7), (3, 2000), (2, 64)])
def test_against_a_slow_loop(monkeypatch, neighbours, block):
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(neighbours)
    # Whole blocks of 64 are looked through by groups of columns.
    count, dims = (128, 5) if block == 64 else (40, 3)
    real = rng.normal(size=(count, dims))
    fake = 0.8 * rng.normal(size=(count - 7, dims)) + 0.5
    wanted = slow(real, fake, neighbours)
    assert precision_recall(real, fake, neighbours) == pytest.approx(wanted)
    assert min(wanted) > 0.1 and max(wanted) < 0.98 and wanted[0] != wanted[1]
    # Float16, far from the origin, as features of a net may be.
    far = [(16 + x).astype(np.float16) for x in (real, fake)]
    assert precision_recall(*far, neighbours) == pytest.approx(
        slow(*(x.astype(np.float64) for x in far), neighbours)
    )


def test_a_point_on_the_edge_is_inside():
    """Whole numbers, so that nothing is rounded; the ball of 0 reaches to 3, by its neighbour."""
    real, fake = np.array([[0.0], [3.0]]), np.array([[-3.0], [50.0]])
    assert precision_recall(real, fake, 1).precision == 0.5


def test_equal_points_count_as_neighbours():
    real, fake = np.zeros((5, 2)), np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    assert precision_recall(real, fake, 3) == (1 / 4, 1)
