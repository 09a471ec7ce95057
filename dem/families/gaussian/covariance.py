"""What the four shapes of covariance have in common: parameters, statistics, small matrix helpers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.errors import FitError
from dem.families.base import NEGLIGIBLE, Array, Kernel
from dem.families.gaussian.frame import Frame
from dem.families.unconstrained import Vector
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


class Shape(ABC):
    """One covariance type. `ridge` is one number per feature, added to the variances; all arrays are in the frame.

    The statistics of the kernels lie in frames that depend on the parameters of the E-step. `rebased` brings them to
    counts, means and scatter about the means in the frame of the fit, which add across E-steps. (Raw moments about its
    origin would cancel for tight components.)
    """

    #: whether rows may only be scaled by one number for all features
    isotropic = False

    @abstractmethod
    def kernel(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> Kernel[GaussianStatistics]:
        """Return the arithmetic of an E-step, in single precision if that is wanted and good enough."""

    @abstractmethod
    def start(self, rows: Array, responsibilities: Array, ridge: Array, frame: Frame) -> GaussianParameters:
        """Return parameters from rows (n, d) and responsibilities (n, K), as scikit-learn does."""

    @abstractmethod
    def m_step(
        self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters, ridge: Array
    ) -> GaussianParameters:
        """Return the maximising parameters; components without rows keep those of `parameters`."""

    @abstractmethod
    def m_step_of_moments(
        self, moments: CentralMoments, parameters: GaussianParameters, ridge: Array
    ) -> GaussianParameters:
        """Return the maximising parameters from rebased statistics."""

    @abstractmethod
    def rebased(self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> CentralMoments:
        """Return the moments behind the statistics of an E-step at `parameters`."""

    @abstractmethod
    def implied(self, parameters: GaussianParameters, counts: Array, ridge: Array) -> CentralMoments:
        """Return the moments from which the M-step makes `parameters`."""

    @abstractmethod
    def squares(self, moments: CentralMoments, parameters: GaussianParameters) -> Array:
        """Return Σγ (x − μ)ᵀ P (x − μ), shape (n_components,), or in all (a number) where the scatter is shared."""

    @abstractmethod
    def log_determinants(self, parameters: GaussianParameters) -> Array:
        """Return log|U|, shape (n_components,)."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return the precisions from their Cholesky factors."""

    @abstractmethod
    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return covariances and Cholesky factors of the precisions."""

    @abstractmethod
    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the variance of each feature in each component, shape (n_components, n_features) or (1, …)."""

    @abstractmethod
    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Multiply covariances (power 2) or precision factors (power −1) by powers of the features' scale."""

    @abstractmethod
    def relative_ridge(self, parameters: GaussianParameters, ridge: Array) -> Array:
        """Return the eigenvalues of ridge · precision, shape (…, n_features)."""

    @abstractmethod
    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free parameters of the covariances."""

    @abstractmethod
    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw a row for each label."""

    @abstractmethod
    def unconstrain(self, parameters: GaussianParameters) -> Vector:
        """Return means, and the Cholesky factors of the precisions with logarithms on the diagonal."""

    @abstractmethod
    def constrain(self, vector: Vector, n_features: int) -> GaussianParameters:
        """Return the parameters of which `vector` is the unconstrained form."""

    def log_constants(self, parameters: GaussianParameters, frame: Frame) -> Array:
        """Return the log-densities at the means, in the user's units, shape (n_components,)."""
        n_features = parameters.means.shape[1]
        return np.asarray(self.log_determinants(parameters) - 0.5 * n_features * LOG_2PI - frame.log_volume)

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, ridge: Array) -> float:
        """Return the most that the ridge can cost the log-likelihood per row: ½ Σ (−log(1 − λ) − λ).

        λ are the eigenvalues of ridge·precision, between 0 and 1. The M-step maximises Q at Σ; at Σ + ridge it is
        smaller by exactly this, so that the log-likelihood cannot fall by more.
        """
        bounded = np.clip(self.relative_ridge(parameters, ridge), 0.0, 1.0)
        with np.errstate(divide="ignore"):
            losses = 0.5 * np.sum(-np.log1p(-bounded) - bounded, axis=-1)
        return float(np.sum(weights * losses))


class OwnShape(Shape):
    """What covariances that each component has for itself have in common."""

    def start(self, rows: Array, responsibilities: Array, ridge: Array, frame: Frame) -> GaussianParameters:  # noqa: ARG002
        """Return parameters from rows (n, d) and responsibilities (n, K), as scikit-learn does."""
        counts, means = weighted_means(rows, responsibilities)
        scatter: Array = np.zeros(())
        for where in slices(len(rows)):
            own = zip(means, responsibilities[where].T, strict=True)
            scatter = scatter + np.array([self.scatter(rows[where] - mean, weights) for mean, weights in own])
        return self.of_scatter(means, (scatter.T / counts).T, ridge)

    @abstractmethod
    def scatter(self, centred: Array, weights: Array) -> Array:
        """Return Σ weight · (x − mean)², as moments of one component keep it, from rows (n, d) about their mean."""

    @abstractmethod
    def of_scatter(self, means: Array, scatter: Array, ridge: Array) -> GaussianParameters:
        """Return the parameters with these means, and the scatter of one row."""


class MatrixShape(Shape):
    """What covariances that are matrices, (n_components, d, d) or (d, d), have in common."""

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return U Uᵀ."""
        return np.asarray(precisions_cholesky @ precisions_cholesky.swapaxes(-1, -2))

    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the diagonals."""
        return np.diagonal(covariances, axis1=-2, axis2=-1).reshape(-1, n_features)

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Rescale covariances (rows and columns) or precision factors (rows only)."""
        if power == 2:
            return array * scale[:, np.newaxis] * scale
        return np.asarray(array * scale[:, np.newaxis] ** float(power))

    def relative_ridge(self, parameters: GaussianParameters, ridge: Array) -> Array:
        """Return the squared singular values of √ridge U."""
        scaled = np.sqrt(ridge)[:, np.newaxis] * parameters.precisions_cholesky
        return np.asarray(np.linalg.svd(scaled, compute_uv=False) ** 2)


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
    if np.any(np.diag(lower) ** 2 <= PIVOT_ROUNDING * np.diag(covariance)):
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
