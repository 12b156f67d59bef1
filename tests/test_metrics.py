"""Metrics against cases with a known answer."""

import numpy as np
import pytest

from ddjax.metrics.frechet import frechet_distance
from ddjax.metrics.precision_recall import precision_recall


def exact_gaussian(rng, count, mean, cov):
    """Samples whose mean and covariance are exactly these."""
    x = rng.normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)).T)
    return x @ np.linalg.cholesky(cov).T + mean


def test_frechet_of_commuting_gaussians():
    """Diagonal covariances: |m|^2 + sum (sqrt a - sqrt b)^2."""
    rng = np.random.default_rng(0)
    a = exact_gaussian(rng, 500, np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    b = exact_gaussian(rng, 400, np.array([1.0, -2.0, 0.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4, abs=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_of_rotated_gaussians():
    """Against the matrix square root, where the covariances do not commute."""
    import scipy.linalg

    rng = np.random.default_rng(1)
    cov_a, cov_b = (m @ m.T + np.eye(4) for m in rng.normal(size=(2, 4, 4)))
    a = exact_gaussian(rng, 300, np.ones(4), cov_a)
    b = exact_gaussian(rng, 300, np.zeros(4), cov_b)
    wanted = 4 + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)


def test_frechet_with_a_dead_feature():
    rng = np.random.default_rng(2)
    a = np.pad(rng.normal(size=(100, 2)), ((0, 0), (0, 1)))
    assert frechet_distance(a, a + np.array([0, 0, 2.0])) == pytest.approx(4, abs=1e-6)


def test_precision_recall_by_hand():
    """Two clusters of real points; the fakes sit in one of them, one fake is far away."""
    real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    fake = np.array([[0.4], [1.4], [1.8], [50.0]])
    # Radii to the first neighbour are 1 for the real, 1, .4, .4, 48.2 for the fake.
    precision, recall = precision_recall(real, fake, neighbours=1)
    assert precision == pytest.approx(3 / 4)
    # 0 and 2 by the first three, 1 by all, and the far fake's ball reaches down to 1.8.
    assert recall == pytest.approx(6 / 6)
    assert precision_recall(real, fake[:3], neighbours=1)[1] == pytest.approx(3 / 6)
