"""Full covariances: every component has its own (d, d) matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.gaussian.component import OwnCovariance
from dem.families.gaussian.covariance import (
    GaussianParameters,
    GaussianStatistics,
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
from dem.families.gaussian.full_kernel import FullKernel, plan_for
from dem.families.gaussian.matrix import MatrixCovariance
from dem.families.unconstrained import Vector
from dem.families.workspace import kept_with
from dem.statistics import CentralMoments


@dataclass(frozen=True, eq=False)
class FullMoments(CentralMoments):
    """Scatter of shape (n_components, n_features, n_features)."""

    @staticmethod
    def _between(weights: Array, step: Array) -> Array:
        return weights[:, np.newaxis, np.newaxis] * step[:, :, np.newaxis] * step[:, np.newaxis]


class Full(OwnCovariance, MatrixCovariance):
    """Covariance type ``'full'``; see `GaussianComponent` for what the methods do."""

    kernel_type = FullKernel
    moments_type = FullMoments

    def m_step(
        self, statistics: GaussianStatistics | CentralMoments, counts: Array, parameters: GaussianParameters
    ) -> GaussianParameters:
        """Return the maximising parameters."""
        if self.prior is not None and not isinstance(statistics, CentralMoments):
            statistics = self.rebased(statistics, counts, parameters)
        if isinstance(statistics, CentralMoments):
            return self._of_moments(self.posterior(statistics, counts), parameters)
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

    def from_own_frames(
        self, parameters: GaussianParameters, first: Array, second: Array, counts: Array
    ) -> GaussianStatistics:
        """Return the statistics of an E-step from Σγy and Σγyyᵀ in own frames, which are overwritten."""

        def made() -> tuple[NDArray[np.intp], Array]:
            wide = plan_for(parameters).wide
            return wide, np.asarray(np.linalg.inv(parameters.precisions_cholesky[wide]))

        wide, root = kept_with(parameters, (self, "out of own frames"), made)
        means, n = parameters.means[wide], counts[wide]
        moved = np.matmul(first[wide, np.newaxis], root)[:, 0]
        first[wide] = n[:, np.newaxis] * means + moved
        second[wide] = root.swapaxes(1, 2) @ second[wide] @ root
        second[wide] += (
            moved[:, :, np.newaxis] * means[:, np.newaxis] + means[:, :, np.newaxis] * first[wide, np.newaxis]
        )
        return GaussianStatistics(first, second)

    def scatter(self, centred: Array, weights: Array) -> Array:
        """Return Σ weight · (x − mean)(x − mean)ᵀ."""
        return np.asarray((weights * centred.T) @ centred)

    def pooled(self, parameters: GaussianParameters, weights: Array) -> Array:
        """Return Σ weight · covariance."""
        return np.tensordot(weights, parameters.covariances, axes=1)

    def of_scatter(self, means: Array, scatter: Array) -> GaussianParameters:
        """Return the parameters with these means and covariances, but for the ridge."""
        return self.with_covariances(means, scatter + np.diag(self._ridge(means.shape[1])))

    def with_covariances(self, means: Array, covariances: Array) -> GaussianParameters:
        """Return the parameters with these means and covariances."""
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

    def moments_behind(self, parameters: GaussianParameters, counts: Array) -> FullMoments:
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
