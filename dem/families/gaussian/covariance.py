"""Parameters and statistics of Gaussian components, and small matrix helpers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.errors import FitError
from dem.families.base import NEGLIGIBLE, SMALLEST_SCALE, Array
from dem.statistics import CentralMoments, Statistics

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


def logarithms(factors: Array) -> Array:
    """Return the upper triangles of Cholesky factors (…, d, d), with logarithms on the diagonals, shape (…, p)."""
    logged, diagonal = np.array(factors), np.arange(factors.shape[-1])
    logged[..., diagonal, diagonal] = np.log(factors[..., diagonal, diagonal])
    return np.asarray(logged[..., *np.triu_indices(factors.shape[-1])])


def from_logarithms(flat: Array, n_features: int) -> Array:
    """Return the factors from what `logarithms` gave."""
    factors, diagonal = np.zeros((*flat.shape[:-1], n_features, n_features)), np.arange(n_features)
    factors[..., *np.triu_indices(n_features)] = flat
    factors[..., diagonal, diagonal] = np.exp(factors[..., diagonal, diagonal])
    return factors


def covariance_of(factor: Array) -> Array:
    """Return (U Uᵀ)⁻¹."""
    inverse = scipy.linalg.solve_triangular(factor, np.eye(len(factor)))
    return np.asarray(inverse.T @ inverse)


def factorise_precision(precision: Array) -> tuple[Array, Array]:
    """Return covariance and upper-triangular U with U Uᵀ = precision."""
    # The Cholesky factor of the matrix with rows and columns reversed, reversed again, is upper-triangular.
    factor = np.ascontiguousarray(np.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1])
    return covariance_of(factor), factor


def refine(moment: Array, factor: Array, ridge: Array, which: str) -> tuple[Array, Array]:
    """Return covariance and precision factor from a central second moment in the frame of `factor`.

    With C = moment + Uᵀ ridge U in the frame y = Uᵀ(x − μ), the covariance is U⁻ᵀ C U⁻¹ and the new factor is U V
    with V Vᵀ = C⁻¹. C is near the identity, so that nothing is lost however ill-conditioned U is.
    """
    inner = moment + (factor.T * ridge) @ factor
    new_factor = factor @ cholesky_of_precision(inner, which)
    lower = scipy.linalg.solve_triangular(factor, np.linalg.cholesky(inner), trans="T")
    return lower @ lower.T, new_factor


def out_of(factor: Array, scatter: Array) -> Array:
    """Return U⁻ᵀ scatter U⁻¹, symmetric: the scatter of x where that of y = Uᵀ(x − μ) is given."""
    half = scipy.linalg.solve_triangular(factor, scatter, trans="T")
    whole: Array = scipy.linalg.solve_triangular(factor, half.T, trans="T")
    return 0.5 * (whole + whole.T)


def centres_of(statistics: GaussianStatistics, counts: Array) -> tuple[Array, Array]:
    """Return the counts without what is negligible, and the centres in the frames of the statistics."""
    counts = np.where(counts > NEGLIGIBLE, counts, 0.0)
    return counts, statistics.first / np.where(counts > 0.0, counts, 1.0)[:, np.newaxis]


def means_of(moments: CentralMoments, parameters: GaussianParameters) -> Array:
    """Return the means of components with rows, and those of `parameters` for the others."""
    return np.where(occupied(moments.counts)[:, np.newaxis], moments.means, parameters.means)


def weighted_means(rows: Array, responsibilities: Array) -> tuple[Array, Array]:
    """Return Σγ (K,) and Σγx/Σγ (K, d) of rows (n, d)."""
    counts = responsibilities.sum(axis=0) + 10 * np.finfo(np.float64).eps
    return counts, (responsibilities.T @ rows) / counts[:, np.newaxis]


def slices(n: int) -> Iterator[slice]:
    """Cut n rows into slices of at most 8,192: what is computed from a sample must not be as large again."""
    for start in range(0, n, 8192):
        yield slice(start, min(start + 8192, n))


def cholesky_of_precision(covariance: Array, which: str) -> Array:
    """Return the upper-triangular U with U Uᵀ = covariance⁻¹; `which` is what messages call it.

    Raises
    ------
    FitError
        If the covariance is not positive definite, or if only rounding makes it so: a single row has no variance.
    """
    try:
        lower = scipy.linalg.cholesky(covariance, lower=True)
    except (scipy.linalg.LinAlgError, ValueError) as error:
        raise FitError(ill_defined(which)) from error
    if np.any(np.diag(lower) ** 2 <= np.maximum(PIVOT_ROUNDING * np.diag(covariance), SMALLEST_SCALE**2)):
        raise FitError(ill_defined(which))
    identity = np.eye(len(covariance))
    return np.ascontiguousarray(scipy.linalg.solve_triangular(lower, identity, lower=True).T)


def ill_defined(which: str) -> str:
    """Return the message for a covariance that is not positive definite."""
    return (
        "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
        "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or "
        f"scale the input data. The first that was found is {which}"
    )


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
