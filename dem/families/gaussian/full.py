"""Full covariances: every component has its own (d, d) matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.families.base import Array, Kernel, RowBlock
from dem.families.gaussian.arithmetic import Plan, plan
from dem.families.gaussian.component import MatrixCovariance, OwnCovariance
from dem.families.gaussian.covariance import (
    GaussianParameters,
    GaussianStatistics,
    belonging,
    centres_of,
    cholesky_of_precision,
    covariance_of,
    factorise_precision,
    from_logarithms,
    logarithms,
    means_of,
    occupied,
    out_of,
    refine,
)
from dem.families.gaussian.deconvolution import DeconvolutionKernel
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.kernel import OwnCovarianceKernel
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh, kept_with
from dem.statistics import CentralMoments

# From here on the products x_i x_j of a block no longer fit in the cache, and one product per component is faster.
WIDE_FEATURES = 64
# Rows of a triangular matrix that are multiplied at a time: less of the zeros, or larger products.
TRIANGLE_STEP = 48


def plan_for(parameters: GaussianParameters, *, single: bool = False) -> Plan:
    """Choose the arithmetic of each component; see `arithmetic.plan`."""
    means, factors = np.abs(parameters.means), parameters.precisions_cholesky
    precisions = np.abs(factors @ factors.swapaxes(1, 2))
    deviations = np.sqrt(np.diagonal(parameters.covariances, axis1=1, axis2=2))
    # |μ|ᵀ|P||μ| and Σ|P_ij|σ_iσ_j: the sizes of the wide product's terms.
    at_mean = np.einsum("ki,kij,kj->k", means, precisions, means, optimize=True)
    within = np.einsum("ki,kij,kj->k", deviations, precisions, deviations, optimize=True)
    return plan(np.sqrt(at_mean), np.sqrt(within), means.shape[1], WIDE_FEATURES, single=single)


class FullKernel(OwnCovarianceKernel):
    """Full covariances: z = [1, x, x_i x_j (i ≤ j)], y = Uᵀ(x − μ)."""

    _second_axes = 2

    def __init__(self, parameters: GaussianParameters, frame: Frame, constant: Array, *, single: bool) -> None:
        chosen = plan_for(parameters, single=single)
        weights = wide_weights(parameters, chosen.wide, constant)
        factors = parameters.precisions_cholesky.swapaxes(1, 2)
        super().__init__(parameters, frame, chosen, constant, weights, factors)

    def _shared_numbers(self, d: int) -> int:
        return 2 * d + (self.weights.shape[1] if len(self.plan.wide) else 0)

    def append_products(self, z: NDArray[Any], d: int) -> None:
        """Append x_i x_j."""
        x, start = z[1 : 1 + d], 1 + d
        for i in range(d):
            np.multiply(x[i], x[i:], out=z[start : start + d - i])
            start += d - i

    def to_own_frame(self, k: int, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Set `out` to Uᵀ(x − μ), without most of the zeros of U.

        BLAS has a routine for that, but SciPy's way to it keeps the interpreter's lock, so that threads wait.
        """
        centred = self.workspace.array("centred", x.shape, x.dtype)
        np.subtract(x, self.means[k], out=centred)
        for start in range(0, len(x), TRIANGLE_STEP):
            end = start + TRIANGLE_STEP
            np.matmul(self.factors[k][start:end, :end], centred[:end], out=out[start:end])

    def add_own(self, k: int, y: NDArray[Any], responsibility: NDArray[Any]) -> None:
        """Add Σγy and Σγyyᵀ."""
        responsibility, members = belonging(responsibility, y)
        root = np.sqrt(responsibility)
        members *= root
        self.first[k] += np.dot(members, root)
        self.second[k] += np.dot(members, members.T)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated."""
        d, wide = self.first.shape[1], self.plan.wide
        if len(wide):
            rows, columns = np.triu_indices(d)
            sums = self.wide_sums.T
            self.first[wide] = sums[:, 1 : 1 + d]
            self.second[wide[:, np.newaxis], rows, columns] = sums[:, 1 + d :]
            self.second[wide[:, np.newaxis], columns, rows] = sums[:, 1 + d :]
        return GaussianStatistics(self.first, self.second)


def wide_weights(parameters: GaussianParameters, which: NDArray[np.int64], constant: Array) -> Array:
    """Return W with W z = log-density, shape (len(which), 1 + d + d(d+1)/2)."""
    d = parameters.means.shape[1]
    upper = np.triu_indices(d)
    weights = np.empty((len(which), 1 + d + len(upper[0])))
    for row, k in zip(weights, which, strict=True):
        factor, mean = parameters.precisions_cholesky[k], parameters.means[k]
        precision = factor @ factor.T
        row[0] = constant[k] - 0.5 * np.sum((mean @ factor) ** 2)
        row[1 : 1 + d] = precision @ mean
        row[1 + d :] = np.where(upper[0] == upper[1], -0.5, -1.0) * precision[upper]
    return weights


@dataclass(frozen=True, eq=False)
class FullMoments(CentralMoments):
    """Scatter of shape (n_components, n_features, n_features)."""

    @staticmethod
    def _between(weights: Array, step: Array) -> Array:
        return weights[:, np.newaxis, np.newaxis] * step[:, :, np.newaxis] * step[:, np.newaxis]


class Full(OwnCovariance, MatrixCovariance):
    """Covariance type ``'full'``; see `GaussianComponent` for what the methods do."""

    kernel_type = FullKernel
    knows = frozenset({"noise", "limits"})
    most_limits = 1.0

    def kernel_for(
        self, parameters: GaussianParameters, chunk: RowBlock, *, exact: bool = False
    ) -> Kernel[GaussianStatistics]:
        """Return the arithmetic for a chunk: that of extreme deconvolution where rows have errors or limits."""
        if chunk.noise is None and (chunk.limits is None or np.isnan(chunk.limits).all()):
            return super().kernel_for(parameters, chunk, exact=exact)
        frame = self._frame(parameters.means.shape[1])

        def with_errors() -> DeconvolutionKernel:
            return DeconvolutionKernel(parameters, frame, plan_for(parameters).own)

        return fresh(kept_with(parameters, (self, "noise"), with_errors))

    def m_step(
        self, statistics: GaussianStatistics | CentralMoments, counts: Array, parameters: GaussianParameters
    ) -> GaussianParameters:
        """Return the maximising parameters."""
        if isinstance(statistics, CentralMoments):
            return self._of_moments(statistics, parameters)
        means = parameters.means.copy()
        covariances, factors = parameters.covariances.copy(), parameters.precisions_cholesky.copy()
        own, ridge = set(plan_for(parameters).own), self._ridge(means.shape[1])
        for k in np.flatnonzero(occupied(counts)):
            name = f"component {k}"
            centre = statistics.first[k] / counts[k]
            moment = statistics.second[k] / counts[k] - np.outer(centre, centre)
            if k in own:
                means[k] += scipy.linalg.solve_triangular(factors[k], centre, trans="T")
                covariances[k], factors[k] = refine(moment, factors[k], ridge, name)
            else:
                means[k] = centre
                covariances[k] = moment + np.diag(ridge)
                factors[k] = cholesky_of_precision(covariances[k], name)
        return GaussianParameters(means, covariances, factors)

    def scatter(self, centred: Array, weights: Array) -> Array:
        """Return Σ weight · (x − mean)(x − mean)ᵀ."""
        return np.asarray((weights * centred.T) @ centred)

    def of_scatter(self, means: Array, scatter: Array) -> GaussianParameters:
        """Return the parameters with these means and covariances, but for the ridge."""
        covariances = scatter + np.diag(self._ridge(means.shape[1]))
        factors = [cholesky_of_precision(covariance, f"component {k}") for k, covariance in enumerate(covariances)]
        return GaussianParameters(means, covariances, np.array(factors))

    def _of_moments(self, moments: CentralMoments, parameters: GaussianParameters) -> GaussianParameters:
        """Return the maximising parameters from rebased statistics."""
        covariances, factors = parameters.covariances.copy(), parameters.precisions_cholesky.copy()
        ridge = np.diag(self._ridge(parameters.means.shape[1]))
        for k in np.flatnonzero(occupied(moments.counts)):
            covariances[k] = moments.scatter[k] / moments.counts[k] + ridge
            factors[k] = cholesky_of_precision(covariances[k], f"component {k}")
        return GaussianParameters(means_of(moments, parameters), covariances, factors)

    def rebased(self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> FullMoments:
        """Return the moments behind the statistics of an E-step."""
        counts, means = centres_of(statistics, counts)
        scatter = statistics.second - counts[:, np.newaxis, np.newaxis] * means[:, :, np.newaxis] * means[:, np.newaxis]
        for k in plan_for(parameters).own:
            factor = parameters.precisions_cholesky[k]
            means[k] = parameters.means[k] + scipy.linalg.solve_triangular(factor, means[k], trans="T")
            scatter[k] = out_of(factor, scatter[k])
        scatter[counts == 0.0] = 0.0
        return FullMoments(counts, means, scatter)

    def implied(self, parameters: GaussianParameters, counts: Array) -> FullMoments:
        """Return the moments behind parameters."""
        ridge = np.diag(self._ridge(parameters.means.shape[1]))
        scatter = counts[:, np.newaxis, np.newaxis] * (parameters.covariances - ridge)
        return FullMoments(counts, parameters.means, scatter)

    def squares(self, moments: CentralMoments, parameters: GaussianParameters) -> Array:
        """Return the weighted sums of squares, shape (n_components,)."""
        factors = parameters.precisions_cholesky
        within = np.einsum("kij,kij->k", factors, moments.scatter @ factors)
        away = np.einsum("ki,kij->kj", moments.means - parameters.means, factors)
        return np.asarray(within + moments.counts * np.sum(away**2, axis=1))

    def log_determinants(self, parameters: GaussianParameters) -> Array:
        """Return log|U| of each component."""
        return np.asarray(np.log(np.diagonal(parameters.precisions_cholesky, axis1=1, axis2=2)).sum(axis=1))

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return covariances and Cholesky factors of the precisions."""
        pairs = [factorise_precision(matrix) for matrix in precisions]
        return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])

    def sample_in_frame(
        self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> Array:
        """Draw a row in the frame for each label."""
        rows = rng.standard_normal((len(labels), parameters.means.shape[1]))
        for k in np.unique(labels):
            where = labels == k
            # y = Uᵀ(x − μ) is standard normal, so x = μ + U⁻ᵀy.
            spread = scipy.linalg.solve_triangular(parameters.precisions_cholesky[k], rows[where].T, trans="T")
            rows[where] = spread.T + parameters.means[k]
        return rows

    def unconstrain(self, parameters: GaussianParameters) -> Vector:
        """Return means and factors, all in the components' own part."""
        return Vector(np.hstack([parameters.means, logarithms(parameters.precisions_cholesky)]), np.empty(0))

    def constrain(self, vector: Vector, parameters: GaussianParameters) -> GaussianParameters:
        """Return parameters from what `unconstrain` gave."""
        n_features = parameters.means.shape[1]
        factors = from_logarithms(vector.own[:, n_features:], n_features)
        covariances = np.array([covariance_of(factor) for factor in factors])
        return GaussianParameters(vector.own[:, :n_features].copy(), covariances, factors)
