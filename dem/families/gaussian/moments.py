"""Gaussian statistics that no longer refer to the parameters of their E-step, so that they add across E-steps.

The kernels' statistics lie in frames that depend on the parameters. Here they are brought to counts, means and scatter
about the means in the frame of the fit. Raw moments about its origin would cancel for tight components; these do not.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.linalg

from dem.families.base import NEGLIGIBLE, Array
from dem.families.gaussian import diagonal, full, tied
from dem.families.gaussian.covariance import (
    GaussianParameters,
    GaussianStatistics,
    check_positive,
    cholesky_of_precision,
    component_names,
    occupied,
)
from dem.statistics import CentralMoments


@dataclass(frozen=True, eq=False)
class GaussianMoments(CentralMoments):
    """Counts, means and scatter of each component in the frame of the fit; a subclass for each covariance type."""

    @classmethod
    @abstractmethod
    def rebased(cls, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> Self:
        """Return the moments behind the statistics of an E-step at `parameters`."""

    @classmethod
    @abstractmethod
    def implied(cls, parameters: GaussianParameters, weights: Array, ridge: Array) -> Self:
        """Return the moments per row from which the M-step makes `parameters`."""

    @abstractmethod
    def m_step(self, parameters: GaussianParameters, ridge: Array) -> GaussianParameters:
        """Return the maximising parameters; components without rows keep those of `parameters`."""

    @abstractmethod
    def squares(self, parameters: GaussianParameters) -> Array:
        """Return Σγ (x − μ)ᵀ P (x − μ), shape (n_components,), or in all (a number) where the scatter is shared."""

    @staticmethod
    @abstractmethod
    def log_determinants(parameters: GaussianParameters) -> Array:
        """Return log|U| of each component."""

    def _means(self, parameters: GaussianParameters) -> Array:
        return np.where(occupied(self.counts)[:, np.newaxis], self.means, parameters.means)


def _centres(statistics: GaussianStatistics, counts: Array) -> tuple[Array, Array]:
    """Return the counts without what is negligible, and the centres in the frames of the statistics."""
    counts = np.where(counts > NEGLIGIBLE, counts, 0.0)
    return counts, statistics.first / np.where(counts > 0.0, counts, 1.0)[:, np.newaxis]


def _out_of(factor: Array, scatter: Array) -> Array:
    """Return U⁻ᵀ scatter U⁻¹, symmetric: the scatter of x where that of y = Uᵀ(x − μ) is given."""
    half = scipy.linalg.solve_triangular(factor, scatter, trans="T")
    whole: Array = scipy.linalg.solve_triangular(factor, half.T, trans="T")
    return 0.5 * (whole + whole.T)


class FullMoments(GaussianMoments):
    """Scatter of shape (n_components, n_features, n_features)."""

    @classmethod
    def rebased(cls, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> Self:
        """Return the moments behind the statistics of an E-step."""
        counts, means = _centres(statistics, counts)
        scatter = statistics.second - counts[:, np.newaxis, np.newaxis] * means[:, :, np.newaxis] * means[:, np.newaxis]
        for k in full.plan_for(parameters).own:
            factor = parameters.precisions_cholesky[k]
            means[k] = parameters.means[k] + scipy.linalg.solve_triangular(factor, means[k], trans="T")
            scatter[k] = _out_of(factor, scatter[k])
        scatter[counts == 0.0] = 0.0
        return cls(counts, means, scatter)

    @classmethod
    def implied(cls, parameters: GaussianParameters, weights: Array, ridge: Array) -> Self:
        """Return the moments per row behind parameters."""
        scatter = weights[:, np.newaxis, np.newaxis] * (parameters.covariances - np.diag(ridge))
        return cls(weights, parameters.means, scatter)

    def m_step(self, parameters: GaussianParameters, ridge: Array) -> GaussianParameters:
        """Return the maximising parameters."""
        covariances, factors = parameters.covariances.copy(), parameters.precisions_cholesky.copy()
        for k in np.flatnonzero(occupied(self.counts)):
            covariances[k] = self.scatter[k] / self.counts[k] + np.diag(ridge)
            factors[k] = cholesky_of_precision(covariances[k], f"component {k}")
        return GaussianParameters(self._means(parameters), covariances, factors)

    def squares(self, parameters: GaussianParameters) -> Array:
        """Return the weighted sums of squares, shape (n_components,)."""
        factors = parameters.precisions_cholesky
        within = np.einsum("kij,kij->k", factors, self.scatter @ factors)
        away = np.einsum("ki,kij->kj", self.means - parameters.means, factors)
        return np.asarray(within + self.counts * np.sum(away**2, axis=1))

    @staticmethod
    def log_determinants(parameters: GaussianParameters) -> Array:
        """Return log|U| of each component."""
        return np.asarray(np.log(np.diagonal(parameters.precisions_cholesky, axis1=1, axis2=2)).sum(axis=1))

    @staticmethod
    def _between(weights: Array, step: Array) -> Array:
        return weights[:, np.newaxis, np.newaxis] * step[:, :, np.newaxis] * step[:, np.newaxis]


class TiedMoments(GaussianMoments):
    """Scatter of shape (n_features, n_features), summed over the components."""

    @classmethod
    def rebased(cls, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> Self:
        """Return the moments behind the statistics of an E-step."""
        factor = parameters.precisions_cholesky
        counts, centres = _centres(statistics, counts)
        scatter = _out_of(factor, statistics.second - (counts * centres.T) @ centres)
        means = scipy.linalg.solve_triangular(factor, centres.T, trans="T").T
        if len(tied.plan_for(parameters).own):
            means = means + parameters.means
        return cls(counts, means, scatter)

    @classmethod
    def implied(cls, parameters: GaussianParameters, weights: Array, ridge: Array) -> Self:
        """Return the moments per row behind parameters."""
        return cls(weights, parameters.means, parameters.covariances - np.diag(ridge))

    def m_step(self, parameters: GaussianParameters, ridge: Array) -> GaussianParameters:
        """Return the maximising parameters."""
        covariance = self.scatter / self.counts.sum() + np.diag(ridge)
        factor = cholesky_of_precision(covariance, "the tied covariance")
        return GaussianParameters(self._means(parameters), covariance, factor)

    def squares(self, parameters: GaussianParameters) -> Array:
        """Return the weighted sum of squares over all components."""
        factor = parameters.precisions_cholesky
        away = np.sum(((self.means - parameters.means) @ factor) ** 2, axis=1)
        return np.asarray(np.sum(factor * (self.scatter @ factor)) + self.counts @ away)

    @staticmethod
    def log_determinants(parameters: GaussianParameters) -> Array:
        """Return log|U|, the same for all components."""
        return np.full(len(parameters.means), np.log(np.diagonal(parameters.precisions_cholesky)).sum())

    @staticmethod
    def _between(weights: Array, step: Array) -> Array:
        return np.asarray((weights * step.T) @ step)


class DiagonalMoments(GaussianMoments):
    """Scatter of shape (n_components, n_features)."""

    @classmethod
    def rebased(cls, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> Self:
        """Return the moments behind the statistics of an E-step."""
        factors = _per_feature(parameters.precisions_cholesky, parameters)
        counts, means = _centres(statistics, counts)
        scatter = statistics.second - counts[:, np.newaxis] * means**2
        own = diagonal.plan_for(parameters.means, factors).own
        means[own] = parameters.means[own] + means[own] / factors[own]
        scatter[own] /= factors[own] ** 2
        scatter[counts == 0.0] = 0.0
        return cls(counts, means, scatter)

    @classmethod
    def implied(cls, parameters: GaussianParameters, weights: Array, ridge: Array) -> Self:
        """Return the moments per row behind parameters."""
        variances = _per_feature(parameters.covariances, parameters) - ridge
        return cls(weights, parameters.means, weights[:, np.newaxis] * variances)

    def m_step(self, parameters: GaussianParameters, ridge: Array) -> GaussianParameters:
        """Return the maximising parameters."""
        there = occupied(self.counts)
        divisor = np.where(there, self.counts, 1.0)[:, np.newaxis]
        covariances = self._reduce(self.scatter / divisor + ridge)
        covariances[~there] = parameters.covariances[~there]
        check_positive(covariances, component_names(len(covariances)))
        return GaussianParameters(self._means(parameters), covariances, 1.0 / np.sqrt(covariances))

    def squares(self, parameters: GaussianParameters) -> Array:
        """Return the weighted sums of squares, shape (n_components,)."""
        factors = _per_feature(parameters.precisions_cholesky, parameters)
        away = (self.means - parameters.means) * factors
        return np.asarray(np.sum(self.scatter * factors**2 + self.counts[:, np.newaxis] * away**2, axis=1))

    @staticmethod
    def log_determinants(parameters: GaussianParameters) -> Array:
        """Return Σ log 1/σ of each component."""
        return np.asarray(np.log(_per_feature(parameters.precisions_cholesky, parameters)).sum(axis=1))

    @staticmethod
    def _reduce(variances: Array) -> Array:
        """Return variances (n_components, n_features) in the shape of this covariance type."""
        return variances


class SphericalMoments(DiagonalMoments):
    """As diagonal moments; the M-step takes the mean of the variances."""

    @staticmethod
    def _reduce(variances: Array) -> Array:
        return np.asarray(variances.mean(axis=1))


def _per_feature(array: Array, parameters: GaussianParameters) -> Array:
    """Return variances or factors of shape (n_components, n_features)."""
    return np.broadcast_to(array.reshape(len(array), -1), parameters.means.shape)


MOMENTS: Mapping[str, type[GaussianMoments]] = {
    "full": FullMoments,
    "tied": TiedMoments,
    "diag": DiagonalMoments,
    "spherical": SphericalMoments,
}
