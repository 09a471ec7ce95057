"""Tied covariance: one (d, d) matrix shared by all components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.families.base import Array, EStepKernel, RowBlock
from dem.families.gaps import rows_of_patterns
from dem.families.gaussian.arithmetic import Plan, plan
from dem.families.gaussian.covariance import (
    GaussianParameters,
    GaussianStatistics,
    block_rows,
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
    slices,
    weighted_means,
)
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.matrix import MatrixCovariance
from dem.families.gaussian.tied_marginal import TiedMarginalKernel, TiedMarginals, most_tied
from dem.families.unconstrained import Vector
from dem.families.workspace import Workspace, constant_row, fresh, kept_with
from dem.statistics import CentralMoments

# What more patterns of missing values need leaves the cache, and no call takes less time for it.
PATTERNS_AT_ONCE = 1024


def plan_for(parameters: GaussianParameters, *, single: bool = False) -> Plan:
    """Choose the arithmetic, for all components alike: that of the one farthest out, in units of the shared σ."""
    means, factor = parameters.means, parameters.precisions_cholesky
    n_components, n_features = means.shape
    mean = np.sqrt(np.sum((means @ factor) ** 2, axis=1)).max()
    deviations = np.sqrt(np.diagonal(parameters.covariances))
    whitening = [np.linalg.norm(np.abs(size) @ np.abs(factor), axis=-1).max() for size in (means, deviations)]
    return plan(
        np.full(n_components, mean),
        np.full(n_components, np.sqrt(n_features)),
        n_features,
        np.inf,
        single=single,
        whitening=np.array(whitening)[:, np.newaxis],
    )


class TiedKernel:
    """E-step for a tied covariance, in the whitened frame y = Uᵀx that all components share.

    There the covariance is the identity: with ν = Uᵀμ the log-densities are ν·y − ½ν² − ½y² plus a constant, one
    product over z = [1, y]. Where components lie far out, y − ν is formed for each of them instead.
    """

    def __init__(self, parameters: GaussianParameters, frame: Frame, constant: Array, *, single: bool) -> None:
        self.frame = frame
        chosen = plan_for(parameters, single=single)
        self.dtype = dtype = chosen.dtype
        self.own_frames = bool(len(chosen.own))
        centres = parameters.means @ parameters.precisions_cholesky
        self.factor = parameters.precisions_cholesky.T.astype(dtype)
        self.means = parameters.means.astype(dtype)[:, :, np.newaxis]
        self.centres = centres.astype(dtype)
        self.trusted_above = chosen.trusted_above(constant[0])
        at_means = constant[:, np.newaxis]
        self.at_means = at_means.astype(dtype)
        self.offsets = (at_means - 0.5 * np.sum(centres**2, axis=1, keepdims=True)).astype(dtype)
        self.slopes: NDArray[Any] | None = None
        self.clear()

    @property
    def n_frames(self) -> int:
        """Number of forms that a row takes."""
        return len(self.means) if self.own_frames else 1

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        return self.block_rows_with(0)

    def block_rows_with(self, numbers: int) -> int:
        """Rows per block that keep the workspace in the cache, and so many numbers more for each row."""
        n_components, d = self.means.shape[:2]
        return block_rows(self.dtype.itemsize * (2 * d + d * self.n_frames + 2 * n_components + numbers))

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self.workspace = Workspace()
        n_components, d = self.means.shape[:2]
        self.first = np.zeros((n_components, d))
        self.second = np.zeros((d, d))

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        columns = {"means": self.means, "centres": self.centres, "at_means": self.at_means, "offsets": self.offsets}
        some = {name: column[which] for name, column in columns.items()}
        return fresh(self, slopes=None if self.slopes is None else self.slopes[which], **some)

    def linear(self, slopes: Array, intercepts: Array) -> Self:
        """Return the same arithmetic with slope · log-density + intercept in the place of each log-density."""
        shifts, dtype = (intercepts / slopes)[:, np.newaxis], self.dtype
        at_means, offsets = ((column + shifts).astype(dtype) for column in (self.at_means, self.offsets))
        return fresh(self, at_means=at_means, offsets=offsets, slopes=slopes[:, np.newaxis].astype(dtype))

    def block(self, chunk: RowBlock) -> TiedBlock:
        """Return rows in the whitened frame, or in that of each component."""
        return TiedBlock(self, chunk.rows)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated."""
        return GaussianStatistics(self.first, self.second)


class TiedBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: TiedKernel, rows: NDArray[Any]) -> None:
        self._kernel = kernel
        (n, d), dtype, workspace = rows.shape, kernel.dtype, kernel.workspace
        x = kernel.frame.apply(rows, workspace.array("x", (d, n), dtype))
        self._y = workspace.array("y", (kernel.n_frames, d, n), dtype)
        self._squares = workspace.array("squares", (kernel.n_frames, n), dtype)
        centred = workspace.array("centred", (d, n), dtype) if kernel.own_frames else x
        for mean, y, squares in zip(kernel.means, self._y, self._squares, strict=False):
            if kernel.own_frames:
                np.subtract(x, mean, out=centred)
            np.matmul(kernel.factor, centred, out=y)
            np.einsum("ij,ij->j", y, y, out=squares)

    def log_density(self) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n)."""
        kernel = self._kernel
        density = kernel.workspace.array("density", (len(kernel.centres), self._y.shape[-1]), kernel.dtype)
        if kernel.own_frames:
            np.multiply(self._squares, -0.5, out=density)
            density += kernel.at_means
        else:
            np.matmul(kernel.centres, self._y[0], out=density)
            density += kernel.offsets
            density -= 0.5 * self._squares[0]
        if kernel.slopes is not None:
            density *= kernel.slopes
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._y[..., which] = 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add Σγy and Σγyyᵀ of the rows."""
        kernel = self._kernel
        if not kernel.own_frames:
            y = self._y[0]
            kernel.first += responsibilities @ y.T
            sums = np.dot(constant_row(1.0, len(responsibilities), responsibilities.dtype), responsibilities)
            # Without weights the sums are 1, but for rounding; that is worth a look.
            if np.abs(sums - 1.0).max() > 16.0 * np.finfo(sums.dtype).eps:
                y *= np.sqrt(sums)
            kernel.second += y @ y.T
            return
        for k, y in enumerate(self._y):
            root = np.sqrt(responsibilities[k])
            y *= root
            kernel.first[k] += y @ root
            kernel.second += y @ y.T


@dataclass(frozen=True, eq=False)
class TiedMoments(CentralMoments):
    """Scatter of shape (n_features, n_features), summed over the components."""

    @staticmethod
    def _between(weights: Array, step: Array) -> Array:
        return np.asarray((weights * step.T) @ step)


class Tied(MatrixCovariance):
    """Covariance type ``'tied'``; see `GaussianComponent` for what the methods do."""

    kernel_type = TiedKernel
    moments_type = TiedMoments

    def m_step(
        self, statistics: GaussianStatistics | CentralMoments, counts: Array, parameters: GaussianParameters
    ) -> GaussianParameters:
        """Return the maximising parameters."""
        if self.prior is not None and not isinstance(statistics, CentralMoments):
            statistics = self.rebased(statistics, counts, parameters)
        if isinstance(statistics, CentralMoments):
            return self._of_moments(self.posterior(statistics, counts), parameters)
        factor = parameters.precisions_cholesky
        there = occupied(counts)
        centres = statistics.first / np.where(there, counts, 1.0)[:, np.newaxis]
        moment = (statistics.second - (counts * centres.T) @ centres) / counts.sum()
        moved = scipy.linalg.solve_triangular(factor, centres.T, trans="T").T
        means = moved + parameters.means if len(plan_for(parameters).own) else moved
        means[~there] = parameters.means[~there]
        covariance, new_factor = refine(moment, factor, self._ridge(means.shape[1]), "the tied covariance")
        return GaussianParameters(means, covariance, new_factor)

    def from_own_frames(
        self, parameters: GaussianParameters, first: Array, second: Array, counts: Array
    ) -> GaussianStatistics:
        """Return the statistics of an E-step from Σγy and Σγyyᵀ of each component in its own frame."""
        total: Array = second.sum(axis=0)
        if len(plan_for(parameters).own):
            return GaussianStatistics(first, total)
        centres = parameters.means @ parameters.precisions_cholesky
        moved = first + counts[:, np.newaxis] * centres
        return GaussianStatistics(moved, total + first.T @ centres + centres.T @ moved)

    def marginals(
        self, parameters: GaussianParameters, rows: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.intp], EStepKernel[GaussianStatistics]]]:
        """Yield the rows of many patterns of missing values together, or where components lie far out those of each."""
        if len(plan_for(parameters).own):
            yield from super().marginals(parameters, rows)
            return
        means, factor = parameters.means, parameters.precisions_cholesky

        def made() -> TiedMarginals:
            return TiedMarginals(means, factor, self._frame(means.shape[1]))

        marginals = kept_with(parameters, (self, "tied marginals"), made)
        patterns, at_once = list(rows_of_patterns(np.isnan(rows))), min(most_tied(*means.shape), PATTERNS_AT_ONCE)
        for start in range(0, len(patterns), at_once):
            missing, which = zip(*patterns[start : start + at_once], strict=True)
            kernel = TiedMarginalKernel(marginals, np.array(missing), partial(self.from_own_frames, parameters))
            yield np.concatenate(which), kernel

    def most_patterns(self, parameters: GaussianParameters) -> float:
        """Return for how many patterns an E-step keeps the marginal distributions."""
        own_frames = bool(len(plan_for(parameters).own))
        return super().most_patterns(parameters) if own_frames else most_tied(*parameters.means.shape)

    def joins(self, other: Self) -> bool:  # noqa: ARG002
        """Return False: the covariance is shared by the components of one model."""
        return False

    def add_at(self, total: GaussianStatistics, which: NDArray[np.intp], part: GaussianStatistics) -> None:
        """Add the statistics of some of the components, which have one second moment in common."""
        total.first[which] += part.first
        total.second[...] += part.second

    def start(self, sample: NDArray[Any], responsibilities: Array) -> GaussianParameters:
        """Return parameters from a sample and its responsibilities, as scikit-learn does."""
        frame = self._frame(sample.shape[1])
        rows = frame.apply(sample).T
        counts, means = weighted_means(rows, responsibilities)
        sums = responsibilities.sum(axis=1)
        # Rows without a component ("k-means++", "random_from_data") count in scikit-learn's second moment, which
        # is taken about zero in the user's units; its start depends on that, and so does ours.
        stray = sums == 0.0
        total = -(counts * means.T) @ means
        for where in slices(len(rows)):
            total += (np.where(stray[where], 1.0, sums[where]) * rows[where].T) @ rows[where]
        if stray.any():
            shift, missing = frame.origin / frame.scale, rows[stray].sum(axis=0)
            total += np.outer(shift, missing) + np.outer(missing, shift) + stray.sum() * np.outer(shift, shift)
        moments = self.posterior(TiedMoments(counts, means, total), counts)
        means, counts, total = moments.means, moments.counts, moments.scatter
        covariance = total / counts.sum() + np.diag(self._ridge(len(total)))
        factor = cholesky_of_precision(covariance, "the tied covariance")
        return GaussianParameters(means, covariance, factor)

    def reseeded(
        self, parameters: GaussianParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> GaussianParameters:
        """Return parameters where some components begin at rows; the covariance is that of all."""
        del weights
        means = parameters.means.copy()
        means[which] = self._frame(rows.shape[1]).apply(rows).T
        return replace(parameters, means=means)

    def _of_moments(self, moments: CentralMoments, parameters: GaussianParameters) -> GaussianParameters:
        """Return the maximising parameters from rebased statistics."""
        covariance = moments.scatter / moments.counts.sum() + np.diag(self._ridge(len(moments.scatter)))
        factor = cholesky_of_precision(covariance, "the tied covariance")
        return GaussianParameters(means_of(moments, parameters), covariance, factor)

    def rebased(self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> TiedMoments:
        """Return the moments behind the statistics of an E-step."""
        factor = parameters.precisions_cholesky
        counts, centres = centres_of(statistics, counts)
        scatter = out_of(factor, statistics.second - (counts * centres.T) @ centres)
        means = scipy.linalg.solve_triangular(factor, centres.T, trans="T").T
        if len(plan_for(parameters).own):
            means = means + parameters.means
        return TiedMoments(counts, means, scatter)

    def moments_behind(self, parameters: GaussianParameters, counts: Array) -> TiedMoments:
        """Return the moments behind parameters."""
        ridge = np.diag(self._ridge(parameters.means.shape[1]))
        within = parameters.covariances - ridge
        return TiedMoments(counts, parameters.means, within if self.prior is None else counts.sum() * within)

    def rows_of_prior(self, dof: float, n_components: int, n_features: int) -> float:
        """Return a share of the rows of the one scale."""
        return super().rows_of_prior(dof, n_components, n_features) / n_components

    def prior_scatter(self, scale: Array, means: Array) -> Array:  # noqa: ARG002
        """Return the one scale."""
        return scale

    def _shrunk(self, moments: CentralMoments, counts: Array) -> CentralMoments:
        """Return moments whose scatter is, by row, that of `counts` rows in all."""
        return replace(moments, scatter=moments.scatter * (moments.counts.sum() / counts.sum()))

    def squares(self, moments: CentralMoments, parameters: GaussianParameters) -> Array:
        """Return the weighted sum of squares over all components."""
        factor = parameters.precisions_cholesky
        away = np.sum(((moments.means - parameters.means) @ factor) ** 2, axis=1)
        return np.asarray(np.sum(factor * (moments.scatter @ factor)) + moments.counts @ away)

    def log_determinants(self, parameters: GaussianParameters) -> Array:
        """Return log|U|, the same for all components."""
        return np.full(len(parameters.means), np.log(np.diagonal(parameters.precisions_cholesky)).sum())

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return covariance and Cholesky factor of the precision."""
        return factorise_precision(precisions)

    def sample_in_frame(
        self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> Array:
        """Draw a row in the frame for each label."""
        rows = rng.standard_normal((len(labels), parameters.means.shape[1]))
        spread = scipy.linalg.solve_triangular(parameters.precisions_cholesky, rows.T, trans="T").T
        return np.asarray(parameters.means[labels] + spread)

    def unconstrain(self, parameters: GaussianParameters) -> Vector:
        """Return the means as the components' own part, and the factor as the shared one."""
        return Vector(parameters.means, logarithms(parameters.precisions_cholesky))

    def constrain(self, vector: Vector, parameters: GaussianParameters) -> GaussianParameters:
        """Return parameters from what `unconstrain` gave."""
        n_features = parameters.means.shape[1]
        factor = from_logarithms(vector.shared, n_features)
        return GaussianParameters(vector.own.copy(), covariance_of(factor), factor)
