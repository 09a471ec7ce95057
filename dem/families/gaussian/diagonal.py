"""Diagonal covariances, and spherical ones as their special case with one variance per component."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.precision import Plan, plan
from dem.families.gaussian.shapes import (
    LOG_2PI,
    GaussianParameters,
    GaussianStatistics,
    block_rows,
    check_positive,
    component_names,
    occupied,
    ridge_loss,
    slices,
    weighted_means,
)
from dem.families.workspace import Workspace, add_weighted, copy_with


def plan_for(means: Array, factors: Array, *, single: bool = False) -> Plan:
    """Choose the arithmetic of each component; see `precision.plan`.

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


class DiagonalKernel:
    """E-step for diagonal covariances.

    Most components share one wide product over z = [1, x, x²]; those far from the origin on the scale of their
    own σ go one by one through their own frame y = (x − μ)/σ.
    """

    def __init__(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> None:
        self._frame = frame
        means = parameters.means
        n_components, d = means.shape
        factors = np.broadcast_to(parameters.precisions_cholesky.reshape(n_components, -1), means.shape)
        self._plan = plan_for(means, factors, single=single)
        wide, dtype = self._plan.wide, self._plan.dtype
        constant = np.log(factors).sum(axis=1) - 0.5 * d * LOG_2PI - frame.log_volume
        self.trusted_above = self._plan.trusted_above(constant)
        self._constant = constant.astype(dtype)
        self._weights = wide_weights(means[wide], factors[wide], constant[wide]).astype(dtype)
        self._means = means.astype(dtype)[:, :, np.newaxis]
        self._factors = factors.astype(dtype)[:, :, np.newaxis]
        self._z: NDArray[Any] = np.empty(0)
        self._y: NDArray[Any] = np.empty(0)
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        n_components, d = self._means.shape[:2]
        return block_rows(self._plan.dtype.itemsize * (1 + 2 * d + d * len(self._plan.own) + 2 * n_components))

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self._workspace = Workspace()
        n_components, d = self._means.shape[:2]
        self._wide_sums = np.zeros((1 + 2 * d, len(self._plan.wide)))
        self._first = np.zeros((n_components, d))
        self._second = np.zeros((n_components, d))

    def restricted(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        chosen, places = self._plan.restricted(which)
        part = copy_with(
            self,
            _plan=chosen,
            _weights=self._weights[places],
            _constant=self._constant[which],
            _means=self._means[which],
            _factors=self._factors[which],
        )
        part.clear()
        return part

    def log_density(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n)."""
        (n, d), dtype = rows.shape, self._plan.dtype
        wide, own = self._plan.wide, self._plan.own
        self._z = z = self._workspace.array("z", (1 + 2 * d, n), dtype)
        z[0] = 1.0
        x = self._frame.apply(rows, z[1 : 1 + d])
        np.multiply(x, x, out=z[1 + d :])
        density = self._workspace.array("density", (len(self._constant), n), dtype)
        if not len(own):
            return np.matmul(self._weights, z, out=density)
        if len(wide):
            density[wide] = self._weights @ z
        self._y = self._workspace.array("y", (len(own), d, n), dtype)
        for k, y in zip(own, self._y, strict=True):
            np.subtract(x, self._means[k], out=y)
            y *= self._factors[k]
            np.einsum("ij,ij->j", y, y, out=density[k])
            density[k] *= -0.5
            density[k] += self._constant[k]
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows last seen."""
        self._z[:, which] = 0.0
        if len(self._plan.own):
            self._y[..., which] = 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add Σγz, and Σγy and Σγy², of the rows last seen."""
        wide, own = self._plan.wide, self._plan.own
        if len(wide):
            chosen = responsibilities[wide] if len(own) else responsibilities
            add_weighted(self._wide_sums, self._z, chosen)
        for k, y in zip(own, self._y, strict=True):
            self._first[k] += np.dot(y, responsibilities[k])
            y *= y
            self._second[k] += np.dot(y, responsibilities[k])

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated; the second moments per feature, shape (n_components, n_features)."""
        d = self._first.shape[1]
        self._first[self._plan.wide] = self._wide_sums[1 : 1 + d].T
        self._second[self._plan.wide] = self._wide_sums[1 + d :].T
        return GaussianStatistics(self._first, self._second)


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

    def tolerated_fall(self, parameters: GaussianParameters, weights: Array, ridge: Array) -> float:
        """Return the most that the ridge can cost the log-likelihood per row."""
        factors = self._per_feature(parameters.precisions_cholesky, parameters.means)
        return float(sum(w * ridge_loss(ridge * row**2) for w, row in zip(weights, factors, strict=True)))

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Return K d."""
        return n_components * n_features

    def draw(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
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
