"""Diagonal covariances, and spherical ones as their special case with one variance per component."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.errors import FitError
from dem.families.base import SMALLEST_SCALE, Array, Kernel, RowBlock
from dem.families.cells import Cells, Moments
from dem.families.gaussian import search
from dem.families.gaussian.arithmetic import Plan, plan
from dem.families.gaussian.censored import CensoredKernel
from dem.families.gaussian.component import OwnCovariance
from dem.families.gaussian.covariance import (
    GaussianParameters,
    GaussianStatistics,
    centres_of,
    ill_defined,
    means_of,
    occupied,
)
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.kernel import OwnCovarianceKernel
from dem.families.gaussian.listed import sums_of
from dem.families.gaussian.masked import MaskedDiagonalKernel
from dem.families.listed import ListedComponent
from dem.families.unconstrained import Vector
from dem.families.workspace import kept_with
from dem.statistics import CentralMoments


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

    def __init__(self, parameters: GaussianParameters, frame: Frame, constant: Array, *, single: bool) -> None:
        means, factors = parameters.means, per_feature(parameters.precisions_cholesky, parameters)
        chosen = plan_for(means, factors, single=single)
        self.is_isotropic = parameters.covariances.ndim == 1
        weights = wide_weights(means[chosen.wide], factors[chosen.wide], constant[chosen.wide])
        super().__init__(parameters, frame, chosen, constant, weights, factors[:, :, np.newaxis])

    def _shared_numbers(self, d: int) -> int:
        return 1 + 2 * d

    @property
    def factors_of_terms(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Of 1, x and x²."""
        d = self.means.shape[1]
        return np.concatenate([np.arange(-1, d) % (d + 1), np.arange(d)]), np.concatenate(
            [np.full(1 + d, d), np.arange(d)]
        )

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


def per_feature(array: Array, parameters: GaussianParameters) -> Array:
    """Return variances or factors of shape (n_components, n_features)."""
    return np.broadcast_to(array.reshape(len(array), -1), parameters.means.shape)


class Diagonal(OwnCovariance, ListedComponent[GaussianParameters, GaussianStatistics]):
    """Covariance type ``'diag'``; see `GaussianComponent` for what the methods do."""

    kernel_type = DiagonalKernel
    masks = True
    knows = frozenset({"limits"})

    def kernel_for(
        self, parameters: GaussianParameters, chunk: RowBlock, *, exact: bool = False
    ) -> Kernel[GaussianStatistics]:
        """Return the arithmetic for a chunk: that of censored values where it has any."""
        if chunk.limits is None or np.isnan(chunk.limits).all():
            return super().kernel_for(parameters, chunk, exact=exact)
        factors = per_feature(parameters.precisions_cholesky, parameters)
        own = plan_for(parameters.means, factors).own
        return CensoredKernel(parameters.means, factors, self._frame(parameters.means.shape[1]), own)

    def listed_sums(
        self,
        parameters: GaussianParameters,
        log_weights: Array,
        chunk: RowBlock,
        lists: NDArray[np.unsignedinteger],
        order: NDArray[np.intp],
    ) -> tuple[Array, Array, GaussianStatistics]:
        """Return what `dem.families.gaussian.listed` does."""
        frame = self._frame(parameters.means.shape[1])
        table, constants, own = self._listed(parameters)
        return sums_of(chunk, lists, order, frame, table, constants + log_weights[:, 0], own)

    def _listed(self, parameters: GaussianParameters) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return means and 1/σ, the log-density at the mean, and whose moments are those in its own frame."""

        def arrays() -> tuple[Array, Array, NDArray[np.bool_]]:
            means, factors = parameters.means, per_feature(parameters.precisions_cholesky, parameters)
            own = np.zeros(len(means), dtype=bool)
            own[plan_for(means, factors).own] = True
            return np.stack([means, factors], axis=1), self.log_constants(parameters), own

        return kept_with(parameters, (self, "listed"), arrays)

    def moments(self, parameters: GaussianParameters, log_weights: Array) -> Moments:
        """Return means and variances."""
        table, constants, _ = self._listed(parameters)
        return Moments(table[:, 0], self.spreads(parameters), table[:, 1] ** 2, constants + log_weights[:, 0])

    def find_likeliest(
        self,
        parameters: GaussianParameters,
        log_weights: Array,
        chunk: RowBlock,
        cells: Cells,
        n_nearest: int,
        found: NDArray[np.unsignedinteger],
    ) -> None:
        """Do what `dem.families.gaussian.search` does."""
        table, constants, _ = self._listed(parameters)
        frame = self._frame(parameters.means.shape[1])
        search.find(chunk, found, cells, n_nearest, frame, table, constants + log_weights[:, 0])

    def marginals(
        self, parameters: GaussianParameters, rows: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.intp], MaskedDiagonalKernel]]:
        """Yield all rows: whatever they lack, one kernel serves them."""
        means, factors = parameters.means, per_feature(parameters.precisions_cholesky, parameters)
        own = plan_for(means, factors).own
        yield np.arange(len(rows)), MaskedDiagonalKernel(means, factors, self._frame(rows.shape[1]), own)

    def conditional_means(self, parameters: GaussianParameters, rows: Array, k: int) -> Array:
        """Return rows with the mean in the place of what is missing: features are independent within a component."""
        frame = self._frame(rows.shape[1])
        return np.where(np.isnan(rows), parameters.means[k] * frame.scale + frame.origin, rows)

    def m_step(
        self, statistics: GaussianStatistics | CentralMoments, counts: Array, parameters: GaussianParameters
    ) -> GaussianParameters:
        """Return the maximising parameters."""
        if self.prior is not None and not isinstance(statistics, CentralMoments):
            statistics = self.rebased(statistics, counts, parameters)
        if isinstance(statistics, CentralMoments):
            return self._of_moments(self.posterior(statistics, counts), parameters)
        means, factors = parameters.means, per_feature(parameters.precisions_cholesky, parameters)
        there = occupied(counts)[:, np.newaxis]
        divisor = np.where(there, counts[:, np.newaxis], 1.0)
        centre = statistics.first / divisor
        variances = statistics.second / divisor - centre**2
        own_frame = np.zeros((len(means), 1), dtype=bool)
        own_frame[plan_for(means, factors).own] = True
        new_means = np.where(own_frame, means + centre / factors, centre)
        variances = np.where(own_frame, variances / factors**2, variances)
        covariances = self._reduce(variances + self._ridge(means.shape[1]))
        empty = ~occupied(counts)
        new_means[empty], covariances[empty] = means[empty], parameters.covariances[empty]
        return self.with_covariances(new_means, covariances)

    def scatter(self, centred: Array, weights: Array) -> Array:
        """Return Σ weight · (x − mean)²."""
        return np.asarray(weights @ centred**2)

    def pooled(self, parameters: GaussianParameters, weights: Array) -> Array:
        """Return Σ weight · variance."""
        return np.asarray(weights @ self.spreads(parameters))

    def spreads(self, parameters: GaussianParameters) -> Array:
        """Return the variances."""
        return per_feature(parameters.covariances, parameters)

    def joint_divergence(
        self,
        of_features: Array,
        parameters: GaussianParameters,  # noqa: ARG002
        pairs: NDArray[np.intp],  # noqa: ARG002
        enough: float,  # noqa: ARG002
    ) -> Array:
        """Return the sum over the features, which are independent."""
        return np.asarray(of_features.sum(axis=1))

    def of_scatter(self, means: Array, scatter: Array) -> GaussianParameters:
        """Return the parameters with these means and variances, but for the ridge."""
        return self.with_covariances(means, self._reduce(scatter + self._ridge(means.shape[1])))

    def with_covariances(self, means: Array, covariances: Array) -> GaussianParameters:
        """Return the parameters with these means and variances."""
        for k, row in enumerate(covariances):
            if not np.all(row > SMALLEST_SCALE**2):
                raise FitError(ill_defined(f"component {k}"))
        return GaussianParameters(means, covariances, 1.0 / np.sqrt(covariances))

    def _of_moments(self, moments: CentralMoments, parameters: GaussianParameters) -> GaussianParameters:
        """Return the maximising parameters from rebased statistics."""
        there = occupied(moments.counts)
        divisor = np.where(there, moments.counts, 1.0)[:, np.newaxis]
        covariances = self._reduce(moments.scatter / divisor + self._ridge(parameters.means.shape[1]))
        covariances[~there] = parameters.covariances[~there]
        return self.with_covariances(means_of(moments, parameters), covariances)

    def rebased(self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> CentralMoments:
        """Return the moments behind the statistics of an E-step."""
        factors = per_feature(parameters.precisions_cholesky, parameters)
        counts, means = centres_of(statistics, counts)
        scatter = statistics.second - counts[:, np.newaxis] * means**2
        own = plan_for(parameters.means, factors).own
        means[own] = parameters.means[own] + means[own] / factors[own]
        scatter[own] /= factors[own] ** 2
        scatter[counts == 0.0] = 0.0
        return CentralMoments(counts, means, scatter)

    def moments_behind(self, parameters: GaussianParameters, counts: Array) -> CentralMoments:
        """Return the moments behind parameters."""
        variances = per_feature(parameters.covariances, parameters) - self._ridge(parameters.means.shape[1])
        return CentralMoments(counts, parameters.means, counts[:, np.newaxis] * variances)

    def squares(self, moments: CentralMoments, parameters: GaussianParameters) -> Array:
        """Return the weighted sums of squares, shape (n_components,)."""
        factors = per_feature(parameters.precisions_cholesky, parameters)
        away = (moments.means - parameters.means) * factors
        return np.asarray(np.sum(moments.scatter * factors**2 + moments.counts[:, np.newaxis] * away**2, axis=1))

    def log_determinants(self, parameters: GaussianParameters) -> Array:
        """Return Σ log 1/σ of each component."""
        return np.asarray(np.log(per_feature(parameters.precisions_cholesky, parameters)).sum(axis=1))

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

    def relative_ridge(self, parameters: GaussianParameters) -> Array:
        """Return ridge / σ²."""
        factors = per_feature(parameters.precisions_cholesky, parameters)
        return self._ridge(parameters.means.shape[1]) * factors**2

    def sample_in_frame(
        self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> Array:
        """Draw a row in the frame for each label."""
        factors = per_feature(parameters.precisions_cholesky, parameters)
        rows = rng.standard_normal((len(labels), parameters.means.shape[1]))
        return np.asarray(parameters.means[labels] + rows / factors[labels])

    def unconstrain(self, parameters: GaussianParameters) -> Vector:
        """Return means and factors, all in the components' own part."""
        factors = np.log(parameters.precisions_cholesky).reshape(len(parameters.means), -1)
        return Vector(np.hstack([parameters.means, factors]), np.empty(0))

    def constrain(self, vector: Vector, parameters: GaussianParameters) -> GaussianParameters:
        """Return parameters from what `unconstrain` gave."""
        n_features = parameters.means.shape[1]
        factors = np.exp(vector.own[:, n_features:])
        factors = factors.reshape(parameters.covariances.shape)
        return GaussianParameters(vector.own[:, :n_features].copy(), 1.0 / factors**2, factors)

    def rows_of_prior(self, dof: float, n_components: int, n_features: int) -> float:  # noqa: ARG002
        """Return ν + 2."""
        return dof + 2.0

    def possible(self, scatter: Array) -> Array:
        """Return the same without negative sums of squares."""
        return np.maximum(scatter, 0.0)

    def _reduce(self, variances: Array) -> Array:
        """Return variances (n_components, n_features) in the shape of this covariance type."""
        return variances


class Spherical(Diagonal):
    """Covariance type ``'spherical'``: the mean of the diagonal variances."""

    @property
    def isotropic(self) -> bool:
        """Whether rows may only be scaled by one number for all features: they have one variance."""
        return True

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Multiply by a power of the one scale that all features share."""
        return np.asarray(array * scale[0] ** float(power))

    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the variance of each feature in each component, in the user's units."""
        variances = super().variances(covariances, n_features)
        return variances if self.units is None else variances * self.units**2

    def rows_of_prior(self, dof: float, n_components: int, n_features: int) -> float:
        """Return a share of those of the scale, which is that of all features."""
        return super().rows_of_prior(dof, n_components, n_features) / n_features

    def prior_scatter(self, scale: Array, means: Array) -> Array:
        """Return a share of the scale for each feature."""
        return np.broadcast_to(scale / means.shape[1], means.shape)

    def possible(self, scatter: Array) -> Array:
        """Return the same for all features, of which only the sum counts."""
        return np.broadcast_to(np.maximum(scatter.mean(axis=1, keepdims=True), 0.0), scatter.shape)

    def _scale(self, frame: Frame) -> Array:
        """Return the scale in `units`: there is one number for all features."""
        return frame.scale if self.units is None else frame.scale / self.units

    def _reduce(self, variances: Array) -> Array:
        return np.asarray(variances.mean(axis=1))
