"""What the four shapes of covariance have in common: parameters, statistics, small matrix helpers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.errors import FitError
from dem.families.base import NEGLIGIBLE, Array, Kernel
from dem.families.gaussian.frame import Frame
from dem.statistics import Statistics

LOG_2PI = float(np.log(2.0 * np.pi))
# Workspace of a block: a share of the last-level cache, measured (docs/performance.md). Fewer than 512 rows
# starve the matrix products, more than 16,384 gain nothing; many components in own frames must still fit in memory.
WORKSPACE_BYTES = 6 * 2**20
WORKSPACE_LIMIT = 64 * 2**20
# What is left of a variance when other features are known is rounding if it is no more than this share of it.
PIVOT_ROUNDING = 4.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class GaussianParameters:
    """Parameters in the frame of the fit.

    Attributes
    ----------
    means : ndarray of shape (n_components, n_features)
    covariances : ndarray
        Shape by covariance type as in scikit-learn: full (K, d, d), tied (d, d), diag (K, d), spherical (K,).
    precisions_cholesky : ndarray
        Upper-triangular U with U Uᵀ = precision (or its square root per feature), of the same shape.
    """

    means: Array
    covariances: Array
    precisions_cholesky: Array


@dataclass(frozen=True, eq=False)
class GaussianStatistics(Statistics):
    """Σγy and Σγyyᵀ, where y is the row in the frame of the fit or in its component's own frame.

    Which of the two, is decided by the parameters of the E-step alone (see the kernels), so that the statistics
    of all chunks add up.

    Attributes
    ----------
    first : ndarray of shape (n_components, n_features)
    second : ndarray
        Shape by covariance type: full (K, d, d), tied (d, d), diag (K, d), spherical (K,).
    """

    first: Array
    second: Array


class Shape(Protocol):
    """One covariance type."""

    #: whether rows may only be scaled by one number for all features
    isotropic: bool

    def kernel(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> Kernel[GaussianStatistics]:
        """Return the arithmetic of an E-step, in single precision if that is wanted and good enough."""

    def m_step(
        self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters, ridge: Array
    ) -> GaussianParameters:
        """Return the maximising parameters with `ridge` (one number per feature) on the diagonal."""

    def start(self, rows: Array, responsibilities: Array, ridge: Array, frame: Frame) -> GaussianParameters:
        """Return parameters from rows in the frame (n, d) and responsibilities (n, K), as scikit-learn does."""

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return the precisions from their Cholesky factors."""

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return covariances and Cholesky factors of the precisions."""

    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the variance of each feature in each component, shape (n_components, n_features) or (1, …)."""

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Multiply covariances (power 2) or precision factors (power −1) by powers of the features' scale."""

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, ridge: Array) -> float:
        """Return the most that the ridge can cost the log-likelihood per row."""

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free parameters of the covariances."""

    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw a row in the frame for each label."""


def weighted_means(rows: Array, responsibilities: Array) -> tuple[Array, Array]:
    """Return Σγ (K,) and Σγx/Σγ (K, d) of rows (n, d)."""
    counts = responsibilities.sum(axis=0) + 10 * np.finfo(np.float64).eps
    return counts, (responsibilities.T @ rows) / counts[:, np.newaxis]


def slices(n: int) -> Iterator[slice]:
    """Cut n rows into slices of at most 8,192: what is computed from a sample must not be as large again."""
    for start in range(0, n, 8192):
        yield slice(start, min(start + 8192, n))


def cholesky_of_precision(covariance: Array, which: str) -> Array:
    """Return the upper-triangular U with U Uᵀ = covariance⁻¹.

    Parameters
    ----------
    covariance : ndarray of shape (d, d)
    which : str
        What the message calls it, for instance ``'component 3'``.

    Raises
    ------
    FitError
        If the covariance is not positive definite, or if only rounding makes it so: a single row has no variance.
    """
    try:
        lower = scipy.linalg.cholesky(covariance, lower=True)
    except (scipy.linalg.LinAlgError, ValueError) as error:
        raise FitError(ill_defined(which)) from error
    if np.any(np.diag(lower) ** 2 <= PIVOT_ROUNDING * np.diag(covariance)):
        raise FitError(ill_defined(which))
    identity = np.eye(len(covariance))
    return np.ascontiguousarray(scipy.linalg.solve_triangular(lower, identity, lower=True).T)


def check_positive(variances: Array, what: Sequence[str]) -> None:
    """Raise FitError unless all variances (one row of them per name in `what`) are positive."""
    for name, row in zip(what, np.atleast_1d(variances), strict=True):
        if not np.all(row > 0.0):
            raise FitError(ill_defined(name))


def ill_defined(which: str) -> str:
    """Return the message for a covariance that is not positive definite."""
    return (
        "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
        "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or "
        f"scale the input data. The first that was found is {which}"
    )


def component_names(n_components: int) -> list[str]:
    """Return what messages call the components."""
    return [f"component {k}" for k in range(n_components)]


def occupied(counts: Array) -> NDArray[np.bool_]:
    """Return which components have rows at all; the others keep their parameters in an M-step."""
    return np.asarray(counts > 10 * np.finfo(np.float64).eps)


def belonging(responsibility: NDArray[Any], rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the responsibilities (n,) and the rows (d, n) of a component without what is negligible, if that is most.

    With many features most rows have one component, and its statistics need no other's rows. What is left out is
    smaller by 20 orders than the rounding of the sum over all rows.
    """
    (where,) = np.nonzero(responsibility > NEGLIGIBLE)
    if 2 * len(where) > len(responsibility):
        return responsibility, rows
    return responsibility[where], rows[:, where]


def block_rows(bytes_per_row: int) -> int:
    """Return how many rows keep a workspace of `bytes_per_row` in the cache."""
    rows = min(max(WORKSPACE_BYTES // bytes_per_row, 512), 16384)
    return max(min(rows, WORKSPACE_LIMIT // bytes_per_row), 64)


def ridge_loss(precision_eigenvalues: Array) -> float:
    """Return ½ Σ (−log(1 − λ) − λ): what a ridge costs the expected log-likelihood per row.

    λ are the eigenvalues of ridge·precision, between 0 and 1. The M-step maximises Q at Σ; at Σ + ridge it is
    smaller by exactly this, so that the log-likelihood cannot fall by more.
    """
    bounded = np.clip(precision_eigenvalues, 0.0, 1.0)
    with np.errstate(divide="ignore"):
        return float(0.5 * np.sum(-np.log1p(-bounded) - bounded))
