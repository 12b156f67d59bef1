"""Fréchet distance between Gaussians fitted to features (arXiv 1706.08500)."""

import dataclasses
import functools

import numpy as np
import scipy.linalg


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean [F] and covariance [F, F], float64."""

    mean_F: np.ndarray
    cov_FF: np.ndarray

    @classmethod
    def of(cls, features_NF: np.ndarray) -> "Gaussian":
        """That of features in memory, at least two rows; `Moments` takes them batch by batch."""
        features_NF = np.asarray(features_NF, np.float64)
        return cls(features_NF.mean(0), np.atleast_2d(np.cov(features_NF, rowvar=False)))

    @functools.cached_property
    def factor_FR(self) -> np.ndarray:
        """L, where L L^T is the covariance, of rank R: pivoted Cholesky, for it may be singular."""
        lower, order, rank, _ = scipy.linalg.lapack.dpstrf(self.cov_FF, lower=1)
        factor = np.zeros((len(lower), rank))
        factor[order - 1] = np.tril(lower)[:, :rank]
        return factor


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean difference|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    Called FID only when the features are Inception's. The factor of `b` is kept for the next time.
    """
    apart = a.mean_F - b.mean_F
    # S_a L L^T and L^T S_a L have the same eigenvalues, and those of the second cannot come out
    # complex.
    values = scipy.linalg.eigvalsh(b.factor_FR.T @ a.cov_FF @ b.factor_FR)
    cross = np.sqrt(np.maximum(values, 0)).sum()
    return float(apart @ apart + np.trace(a.cov_FF) + np.trace(b.cov_FF) - 2 * cross)
