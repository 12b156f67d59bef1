"""Fréchet distance between two sets of features (arXiv 1706.08500)."""

import numpy as np
import scipy.linalg


def frechet_distance(a_NF: np.ndarray, b_MF: np.ndarray) -> float:
    """|mean difference|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of Gaussians fitted to features.

    Called FID only when the features are Inception's.

    Args:
      a_NF: features of one set, at least two rows.
      b_MF: features of the other.
    """
    a, b = np.asarray(a_NF, np.float64), np.asarray(b_MF, np.float64)
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # tr (S_a S_b)^(1/2) through a symmetric matrix, so that rounding cannot make it complex.
    values, vectors = scipy.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
