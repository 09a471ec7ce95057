"""What Gaussian components have in common, whatever their type of covariance."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Component, RowBlock, Support
from dem.families.gaussian.arithmetic import SINGLE_TOLERANCE
from dem.families.gaussian.covariance import (
    LOG_2PI,
    GaussianParameters,
    GaussianStatistics,
    occupied,
    slices,
    weighted_means,
)
from dem.families.gaussian.frame import Floored, Frame, same_frame
from dem.families.gaussian.kernel import GaussianKernel
from dem.families.gaussian.prior import NormalWishart
from dem.families.workspace import fresh, kept_with
from dem.row_draws import RowDraws
from dem.statistics import CentralMoments
from dem.tree import tree_map

# The share of a variance that is `reg_covar` from which on a component counts as collapsed.
FLOOR = 0.9


def knows_more(chunk: RowBlock) -> bool:
    """Tell whether rows have errors or limits."""
    return chunk.noise is not None or (chunk.limits is not None and not bool(np.isnan(chunk.limits).all()))


@dataclass(frozen=True, eq=False)
class GaussianComponent(Floored, Component[GaussianParameters, GaussianStatistics]):
    """Multivariate normal components; each subclass is a type of covariance.

    All arrays are in the frame of the fit. The statistics of the kernels lie in frames that depend on the parameters of
    the E-step; `rebased` brings them to counts, means and scatter about the means in the frame of the fit, which add
    across E-steps. (Raw moments about its origin would cancel for tight components.)

    Parameters
    ----------
    reg_covar : float
        Added to the variances in every M-step, in squared `units`.
    frame : Frame, optional
        Origin and scale in which all arithmetic runs; from `adapted_to`.
    dtype : {'float32', 'float64'}, optional
        Precision of the arithmetic; that of the data when left out. Sums are double in any case.
    units : ndarray of shape (n_features,), optional
        Of the features, in the user's units: what has one number for all features is in these. 1 when left out.
    prior : NormalWishart, optional
        Of means and covariances; the M-step then maximises the posterior.
    """

    reg_covar: float = 1e-6
    frame: Frame | None = None
    dtype: str | None = None
    units: Array | None = None
    prior: NormalWishart | None = None
    name: ClassVar[str] = "gaussian"
    support: ClassVar[Support] = Support()
    #: makes a kernel of parameters, frame, the log-densities at the means, and whether single precision is wanted
    kernel_type: ClassVar[Callable[..., GaussianKernel]]
    #: what `rebased` returns
    moments_type: ClassVar[type[CentralMoments]] = CentralMoments

    # What a type of covariance provides beside the methods of a component ---------------------------------------

    @property
    def isotropic(self) -> bool:
        """Whether rows may only be scaled by one number for all features."""
        return False

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
    def relative_ridge(self, parameters: GaussianParameters) -> Array:
        """Return the eigenvalues of ridge · precision, shape (…, n_features)."""

    @abstractmethod
    def spreads(self, parameters: GaussianParameters) -> Array:
        """Return the variance of each feature in each component, in the frame, shape (n_components, n_features)."""

    @abstractmethod
    def sample_in_frame(
        self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> Array:
        """Draw a row in the frame for each label."""

    @abstractmethod
    def moments_behind(self, parameters: GaussianParameters, counts: Array) -> CentralMoments:
        """Return the moments with these counts, means, and covariances but for the ridge."""

    def rows_of_prior(self, dof: float, n_components: int, n_features: int) -> float:
        """Return how many rows the scale of a prior counts for, in each component."""
        raise NotImplementedError

    def prior_scatter(self, scale: Array, means: Array) -> Array:
        """Return the scale of a prior as moments keep the scatter, for means (n_components, n_features)."""
        return np.broadcast_to(scale, (len(means), *scale.shape))

    def possible(self, scatter: Array) -> Array:
        """Return the scatter that is nearest to one that may be none."""
        raise NotImplementedError

    # What all have in common ------------------------------------------------------------------------------------

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with origin and scale of a sample (n, n_features)."""
        return replace(self, frame=Frame.of(sample, isotropic=self.isotropic, units=self.units))

    def around(self, means: Array, covariances: Array) -> Self:
        """Return this component with a frame that suits given parameters (in the user's units)."""
        within = self.variances(covariances, means.shape[1]).mean(axis=0)
        total = within + means.var(axis=0)
        return replace(self, frame=Frame.about(means.mean(axis=0), total, isotropic=self.isotropic, units=self.units))

    def kernel(self, parameters: GaussianParameters, dtype: np.dtype[Any], *, exact: bool = False) -> GaussianKernel:
        """Return the arithmetic of an E-step at `parameters` for rows of `dtype`; in double precision if `exact`."""
        frame, single = self._frame(parameters.means.shape[1]), self._single(dtype) and not exact
        return fresh(
            kept_with(
                parameters,
                (self, single),
                lambda: self.kernel_type(parameters, frame, self.log_constants(parameters), single=single),
            )
        )

    def expected(self, parameters: GaussianParameters, chunk: RowBlock, k: int, rng: RowDraws | None = None) -> Array:
        """Return the means of what is missing or has limits; with `rng` what has limits is drawn first."""
        if not knows_more(chunk):
            return super().expected(parameters, chunk, k)
        kernel: Any = self.kernel_for(parameters, chunk).take(np.array([k]))
        means = []
        for start in range(0, len(chunk.rows), kernel.block_rows):
            which = slice(start, start + kernel.block_rows)
            kernel = fresh(kernel, rng=None if rng is None else rng.take(which))
            means.append(kernel.block(chunk.take(which)).means()[0])
        return np.concatenate(means)

    def drawn(self, parameters: GaussianParameters, chunk: RowBlock, labels: NDArray[np.int64], rng: RowDraws) -> Array:
        """Return draws of what is missing or has limits."""
        if not knows_more(chunk):
            return super().drawn(parameters, chunk, labels, rng)
        rows = np.empty(chunk.rows.shape)
        for k in np.unique(labels):
            own = np.flatnonzero(labels == k)
            part, own_draws = chunk.take(own), rng.take(own)
            rows[own] = (
                self._drawn_of(parameters, part, int(k), own_draws)
                if knows_more(part)
                else super().drawn(parameters, part, labels[own], own_draws)
            )
        return rows

    def _drawn_of(self, parameters: GaussianParameters, chunk: RowBlock, k: int, rng: RowDraws) -> Array:
        """Return draws in one component; where its features are independent, each by itself."""
        return self.expected(parameters, chunk, k, rng)

    def joins(self, other: Self) -> bool:
        """Tell whether the other, of the same type, has the same frame and precision."""
        return same_frame(self.frame, other.frame) and self.dtype == other.dtype

    @property
    def has_prior(self) -> bool:  # type: ignore[override]
        """Whether there is one."""
        return self.prior is not None

    def without_prior(self) -> Self:
        """Return the same component without one."""
        return replace(self, prior=None)

    def log_prior(self, parameters: GaussianParameters) -> float:
        """Return the log-density of the prior, in the user's units, but for what no parameter changes."""
        if self.prior is None:
            return 0.0
        moments, more = self._of_prior(self.prior, parameters.means)
        n_features = parameters.means.shape[1]
        logs = self.log_determinants(parameters) - np.log(self._scale(self._frame(n_features))).sum()
        return float(more * logs.sum() - 0.5 * np.sum(self.squares(moments, parameters)))

    def posterior(self, moments: CentralMoments, counts: Array) -> CentralMoments:
        """Return the moments whose means and covariances maximise the posterior; `counts` are those of the rows."""
        if self.prior is None:
            return moments
        of_prior, more = self._of_prior(self.prior, moments.means)
        joined = moments + of_prior
        return self._shrunk(joined, counts + more)

    def implied(self, parameters: GaussianParameters, counts: Array, n_rows: float = math.inf) -> CentralMoments:
        """Return the moments behind parameters: those of rows without what the prior adds."""
        if self.prior is None:
            return self.moments_behind(parameters, counts)
        of_prior, more = self._of_prior(self.prior, parameters.means)
        of_prior, more = (1.0 / n_rows) * of_prior, more / n_rows
        there = occupied(counts)
        share = of_prior.counts / np.where(there, counts, 1.0) * there
        step = parameters.means - of_prior.means
        between = of_prior._between(share * (counts + of_prior.counts), step)  # noqa: SLF001 - how moments add
        scatter = self.moments_behind(parameters, counts + more).scatter - of_prior.scatter - between
        means = parameters.means + share[:, np.newaxis] * step
        return self.moments_type(counts, means, self.possible(scatter))

    def _of_prior(self, prior: NormalWishart, means: Array) -> tuple[CentralMoments, float]:
        """Return the prior as moments in the frame, and how many rows it makes each covariance the scatter of."""
        (n_components, n_features), frame = means.shape, self._frame(means.shape[1])
        mean = np.broadcast_to((prior.mean - frame.origin) / frame.scale, means.shape)
        scale = self.rescale(prior.scale, 1.0 / self._scale(frame), 2)
        counts = np.full(n_components, float(prior.shrinkage))
        more = prior.of_mean + self.rows_of_prior(prior.dof, n_components, n_features)
        return self.moments_type(counts, mean, self.prior_scatter(scale, means)), more

    def _shrunk(self, moments: CentralMoments, counts: Array) -> CentralMoments:
        """Return moments whose scatter is, by row, that of `counts` rows."""
        share = moments.counts / counts
        return replace(moments, scatter=(moments.scatter.T * share).T)

    def log_constants(self, parameters: GaussianParameters) -> Array:
        """Return the log-densities at the means, in the user's units, shape (n_components,)."""
        n_features = parameters.means.shape[1]
        # Densities of rows in the frame are larger by the product of its scales.
        log_volume = np.log(self._frame(n_features).scale).sum()
        return np.asarray(self.log_determinants(parameters) - 0.5 * n_features * LOG_2PI - log_volume)

    def expected_log_density(self, statistics: CentralMoments, counts: Array, parameters: GaussianParameters) -> float:
        """Return Σγ log p(row | component) over rows and components."""
        return float(counts @ self.log_constants(parameters) - 0.5 * np.sum(self.squares(statistics, parameters)))

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, dtype: np.dtype[Any]) -> float:
        """Return the most that `reg_covar` (½ Σ (−log(1 − λ) − λ)) and single precision can cost per row.

        λ are the eigenvalues of ridge·precision, between 0 and 1. The M-step maximises Q at Σ; at Σ + ridge it is
        smaller by exactly this, so that the log-likelihood cannot fall by more.
        """
        if self.prior is not None:  # whose covariances are those of more rows, of which there is at least one
            n_components, n_features = parameters.means.shape
            weights = weights + self.prior.of_mean + self.rows_of_prior(self.prior.dof, n_components, n_features)
        bounded = np.clip(self.relative_ridge(parameters), 0.0, 1.0)
        with np.errstate(divide="ignore"):
            losses = 0.5 * np.sum(-np.log1p(-bounded) - bounded, axis=-1)
        there = weights > 0.0  # of the others the loss may be infinite
        lost = np.sum(weights[there] * np.broadcast_to(losses, weights.shape)[there])
        return float(lost) + (SINGLE_TOLERANCE if self._single(dtype) else 0.0)

    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label; shape (n, n_features)."""
        frame = self._frame(parameters.means.shape[1])
        return self.sample_in_frame(parameters, labels, rng) * frame.scale + frame.origin

    def n_parameters(self, parameters: GaussianParameters) -> int:
        """Return the number of free parameters of means and covariances."""
        vector = self.unconstrain(parameters)
        return vector.own.size + vector.shared.size

    def to_user(self, parameters: GaussianParameters) -> dict[str, NDArray[Any]]:
        """Return ``means``, ``covariances`` and ``precisions_cholesky`` in the user's units."""
        frame = self._frame(parameters.means.shape[1])
        return {
            "means": parameters.means * frame.scale + frame.origin,
            "covariances": self.rescale(parameters.covariances, self._scale(frame), 2),
            "precisions_cholesky": self.rescale(parameters.precisions_cholesky, self._scale(frame), -1),
            **({} if self.prior is None else self.prior.to_user()),
        }

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> GaussianParameters:
        """Return parameters from what `to_user` gave."""
        means = np.asarray(values["means"], dtype=np.float64)
        frame = self._frame(means.shape[1])
        covariances = np.asarray(values["covariances"], dtype=np.float64)
        factors = np.asarray(values["precisions_cholesky"], dtype=np.float64)
        return GaussianParameters(
            (means - frame.origin) / frame.scale,
            self.rescale(covariances, 1.0 / self._scale(frame), 2),
            self.rescale(factors, 1.0 / self._scale(frame), -1),
        )

    def collapsed(self, parameters: GaussianParameters) -> NDArray[np.bool_]:
        """Tell which components have a direction whose variance is hardly that of rows."""
        most = np.max(self.relative_ridge(parameters), axis=-1)
        return np.broadcast_to(most >= FLOOR, len(parameters.means))

    def coordinates(self, parameters: GaussianParameters) -> Array:
        """Return means and logarithms of standard deviations."""
        return np.hstack([parameters.means, 0.5 * np.log(self.spreads(parameters))])

    def divergence(self, parameters: GaussianParameters, pairs: NDArray[np.intp], enough: float) -> Array:
        """Return ½ tr(ΣP′ + Σ′P) − d + ½ (μ − μ′)ᵀ(P + P′)(μ − μ′)."""
        (one, other), variances, means = pairs.T, self.spreads(parameters), parameters.means
        with np.errstate(over="ignore"):
            ratio, step = variances[one] / variances[other], (means[one] - means[other]) ** 2
            of_features = 0.5 * (ratio + 1.0 / ratio - 2.0 + step / variances[one] + step / variances[other])
        return self.joint_divergence(of_features, parameters, pairs, enough)

    @abstractmethod
    def joint_divergence(
        self, of_features: Array, parameters: GaussianParameters, pairs: NDArray[np.intp], enough: float
    ) -> Array:
        """Return the divergence of pairs of components from those of each feature, (n, n_features)."""

    def _single(self, dtype: np.dtype[Any]) -> bool:
        """Tell whether rows of `dtype` are computed in single precision, accuracy permitting."""
        if self.dtype is None:
            return dtype.kind == "f" and dtype.itemsize <= 4
        return self.dtype == "float32"

    def _scale(self, frame: Frame) -> Array:
        """Return the scale of what users see of covariances."""
        return frame.scale


class OwnCovariance(GaussianComponent):
    """What covariances that each component has for itself have in common."""

    takes_device = True

    def start(self, sample: NDArray[Any], responsibilities: Array) -> GaussianParameters:
        """Return parameters from a sample and its responsibilities, as scikit-learn does."""
        rows = self._frame(sample.shape[1]).apply(sample).T
        counts, means = weighted_means(rows, responsibilities)
        scatter: Array = np.zeros(())
        for where in slices(len(rows)):
            own = zip(means, responsibilities[where].T, strict=True)
            scatter = scatter + np.array([self.scatter(rows[where] - mean, weights) for mean, weights in own])
        return self.of_sample(self.posterior(self.moments_type(counts, means, scatter), counts))

    def reseeded(
        self, parameters: GaussianParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> GaussianParameters:
        """Return parameters where some components begin at rows with the covariance of the others, pooled."""
        means = self._frame(rows.shape[1]).apply(rows).T
        pooled = self.pooled(parameters, weights)
        seeds = self.of_scatter(means, np.broadcast_to(pooled, (len(means), *pooled.shape)))

        def changed(whole: Array, part: Array) -> Array:
            whole = whole.copy()
            whole[which] = part
            return whole

        result: GaussianParameters = tree_map(changed, parameters, seeds)
        return result

    def of_sample(self, moments: CentralMoments) -> GaussianParameters:
        """Return the parameters of a start, from the moments of a sample."""
        return self.of_scatter(moments.means, (moments.scatter.T / moments.counts).T)

    @abstractmethod
    def pooled(self, parameters: GaussianParameters, weights: Array) -> Array:
        """Return the weighted mean of the covariances, as moments of one component keep the scatter."""

    @abstractmethod
    def scatter(self, centred: Array, weights: Array) -> Array:
        """Return Σ weight · (x − mean)², as moments of one component keep it, from rows (n, d) about their mean."""

    @abstractmethod
    def of_scatter(self, means: Array, scatter: Array) -> GaussianParameters:
        """Return the parameters with these means, and the scatter of one row."""

    @abstractmethod
    def with_covariances(self, means: Array, covariances: Array) -> GaussianParameters:
        """Return the parameters with these means and covariances, if these are positive (definite)."""
