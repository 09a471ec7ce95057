"""Diagonal covariances, and spherical ones as their special case with one variance per component."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.gaussian.arithmetic import Plan, plan
from dem.families.gaussian.covariance import (
    LOG_2PI,
    GaussianParameters,
    GaussianStatistics,
    check_positive,
    component_names,
    occupied,
    ridge_loss,
    slices,
    weighted_means,
)
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.kernel import OwnCovarianceKernel


def plan_for(means: Array, factors: Array, *, single: bool = False) -> Plan:
    """Choose the arithmetic of each component; see `arithmetic.plan`.

    Parameters
    ----------
    means : ndarray of shape (n_components, n_features)
    factors : ndarray of shape (n_components, n_features) or (n_components, 1)
        1/σ.
    single : bool
        Whether single precision is wanted.
    """
    n_features = means.shape[1]
    mean = np.sqrt(np.sum((means * factors) ** 2, axis=1))
    return plan(mean, np.full(len(means), np.sqrt(n_features)), n_features, np.inf, single=single)


class DiagonalKernel(OwnCovarianceKernel):
    """Diagonal covariances: z = [1, x, x²], y = (x − μ)/σ; second moments per feature, (n_components, n_features)."""

    _second_axes = 1

    def __init__(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> None:
        means = parameters.means
        factors = np.broadcast_to(parameters.precisions_cholesky.reshape(len(means), -1), means.shape)
        chosen = plan_for(means, factors, single=single)
        constant = np.log(factors).sum(axis=1) - 0.5 * means.shape[1] * LOG_2PI - frame.log_volume
        weights = wide_weights(means[chosen.wide], factors[chosen.wide], constant[chosen.wide])
        super().__init__(parameters, frame, chosen, constant, weights, factors[:, :, np.newaxis])

    def _shared_numbers(self, d: int) -> int:
        return 1 + 2 * d

    def append_products(self, z: NDArray[Any], d: int) -> None:
        """Append x²."""
        np.multiply(z[1 : 1 + d], z[1 : 1 + d], out=z[1 + d :])

    def to_own_frame(self, k: int, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Set `out` to (x − μ)/σ."""
        np.subtract(x, self.means[k], out=out)
        out *= self.factors[k]

    def add_own(self, k: int, y: NDArray[Any], responsibility: NDArray[Any]) -> None:
        """Add Σγy and Σγy²."""
        self.first[k] += np.dot(y, responsibility)
        y *= y
        self.second[k] += np.dot(y, responsibility)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated."""
        d = self.first.shape[1]
        self.first[self.plan.wide] = self.wide_sums[1 : 1 + d].T
        self.second[self.plan.wide] = self.wide_sums[1 + d :].T
        return GaussianStatistics(self.first, self.second)


def wide_weights(means: Array, factors: Array, constant: Array) -> Array:
    """Return W with W z = log-density for z = [1, x, x²], shape (n, 1 + 2 d)."""
    precisions = factors**2
    constant = constant - 0.5 * np.sum(means**2 * precisions, axis=1)
    return np.hstack([constant[:, np.newaxis], means * precisions, -0.5 * precisions])


class Diagonal:
    """Covariance type ``'diag'``; see `Shape` for what the methods do."""

    isotropic = False

    def kernel(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> DiagonalKernel:
        """Return the arithmetic of an E-step."""
        return DiagonalKernel(parameters, frame, single=single)

    def m_step(
        self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters, ridge: Array
    ) -> GaussianParameters:
        """Return the maximising parameters."""
        means, factors = parameters.means, self._per_feature(parameters.precisions_cholesky, parameters.means)
        there = occupied(counts)[:, np.newaxis]
        divisor = np.where(there, counts[:, np.newaxis], 1.0)
        centre = statistics.first / divisor
        variances = statistics.second / divisor - centre**2
        own_frame = np.zeros((len(means), 1), dtype=bool)
        own_frame[plan_for(means, factors).own] = True
        new_means = np.where(own_frame, means + centre / factors, centre)
        variances = np.where(own_frame, variances / factors**2, variances)
        covariances = self._reduce(variances + ridge)
        empty = ~occupied(counts)
        new_means[empty], covariances[empty] = means[empty], parameters.covariances[empty]
        check_positive(covariances, component_names(len(counts)))
        return GaussianParameters(new_means, covariances, 1.0 / np.sqrt(covariances))

    def start(self, rows: Array, responsibilities: Array, ridge: Array, frame: Frame) -> GaussianParameters:  # noqa: ARG002
        """Return parameters from a sample and its responsibilities."""
        counts, means = weighted_means(rows, responsibilities)
        variances = np.zeros_like(means)
        for where in slices(len(rows)):
            for k, mean in enumerate(means):
                variances[k] += responsibilities[where, k] @ (rows[where] - mean) ** 2
        covariances = self._reduce(variances / counts[:, np.newaxis] + ridge)
        check_positive(covariances, component_names(len(means)))
        return GaussianParameters(means, covariances, 1.0 / np.sqrt(covariances))

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return 1/σ²."""
        return precisions_cholesky**2

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return variances and 1/σ."""
        return 1.0 / precisions, np.sqrt(precisions)

    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the variance of each feature in each component."""
        return np.broadcast_to(covariances.reshape(len(covariances), -1), (len(covariances), n_features))

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Multiply by a power of the scale of each feature."""
        return np.asarray(array * scale ** float(power))

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, ridge: Array) -> float:
        """Return the most that the ridge can cost the log-likelihood per row."""
        factors = self._per_feature(parameters.precisions_cholesky, parameters.means)
        return float(sum(w * ridge_loss(ridge * row**2) for w, row in zip(weights, factors, strict=True)))

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Return K d."""
        return n_components * n_features

    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw a row in the frame for each label."""
        factors = self._per_feature(parameters.precisions_cholesky, parameters.means)
        rows = rng.standard_normal((len(labels), parameters.means.shape[1]))
        return np.asarray(parameters.means[labels] + rows / factors[labels])

    def _per_feature(self, factors: Array, means: Array) -> Array:
        """Return factors of shape (n_components, n_features)."""
        return np.broadcast_to(factors.reshape(len(means), -1), means.shape)

    def _reduce(self, variances: Array) -> Array:
        """Return variances (n_components, n_features) in the shape of this covariance type."""
        return variances


class Spherical(Diagonal):
    """Covariance type ``'spherical'``: the mean of the diagonal variances."""

    isotropic = True

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Multiply by a power of the one scale that all features share."""
        return np.asarray(array * scale[0] ** float(power))

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:  # noqa: ARG002
        """Return K."""
        return n_components

    def _reduce(self, variances: Array) -> Array:
        return np.asarray(variances.mean(axis=1))
